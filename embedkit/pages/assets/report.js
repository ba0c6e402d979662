'use strict';
// The charts of a comparison: score over labels with intervals, and score over what methods cost. Drawn by ECharts.
(() => {
  const { colour, colours, count, data: read, element, open } = embedkit;
  const data = read('chart-data');
  const SYMBOLS = ['circle', 'rect', 'triangle', 'diamond', 'emptyCircle', 'emptyRect', 'emptyTriangle', 'emptyDiamond'];
  const sizes = new Map(data.lines.flatMap(({ points }) => points.map((point) => [point.labels, point.size])));
  const shown = (value) => value.toFixed(3);

  function card(...lines) {
    const made = element('div');
    made.append(...lines.map((line) => element('div', line)));
    return made;
  }

  function frame(chart, xName, xAxis) {
    const { ink, soft, line, ground } = colours();
    const text = { color: ink, fontFamily: 'system-ui, sans-serif' };
    const axis = { nameTextStyle: { color: soft }, axisLabel: { color: ink, hideOverlap: true }, axisLine: { lineStyle: { color: soft } },
      splitLine: { lineStyle: { color: line } }, nameLocation: 'middle' };
    return {
      animation: false, textStyle: text, aria: { enabled: true },
      grid: { left: 62, right: 24, top: 64, bottom: 54 },
      legend: { type: 'scroll', top: 4, textStyle: text, pageTextStyle: text, pageIconColor: ink, inactiveColor: soft,
        data: [...new Set(data.lines.map(({ name }) => name))] },
      tooltip: { trigger: 'item', confine: true, backgroundColor: ground, borderColor: line, textStyle: text,
        formatter: ({ data: { card: lines } }) => card(...(lines || [])) },
      xAxis: { ...axis, type: 'log', name: xName, nameGap: 32, minorTick: { show: true }, ...xAxis },
      yAxis: { ...axis, type: 'value', name: data.metric, nameGap: 44, scale: true, axisLabel: { color: ink, formatter: shown } },
    };
  }

  const look = (at) => ({ symbol: SYMBOLS[at % SYMBOLS.length], symbolSize: 8, itemStyle: { color: colour(at) }, lineStyle: { color: colour(at), width: 2 } });
  const said = (name, point) => [name, `${point.size}: ${shown(point.score)} [${shown(point.low)}, ${shown(point.high)}]`, `${count(point.seconds)} s to train`];

  // Intervals are upright lines, each method's a little beside the others', so that none hides another.
  function curves(chart) {
    const middle = (data.lines.length - 1) / 2;
    const series = data.lines.flatMap(({ name, points }, at) => {
      const beside = (labels) => labels * 1.012 ** (at - middle);
      const bars = points.flatMap(({ labels, low, high }) => [[beside(labels), low], [beside(labels), high], [beside(labels), null]]);
      return [
        { type: 'line', name, ...look(at), data: points.map((point) => ({ value: [beside(point.labels), point.score], card: said(name, point) })) },
        { type: 'line', name, symbol: 'none', silent: true, z: 1, tooltip: { show: false }, data: bars, lineStyle: { color: colour(at), width: 2, opacity: 0.55 } },
      ];
    });
    const ticks = [...sizes.keys()].sort((a, b) => a - b);
    const label = (value) => (!sizes.has(value) || Number(sizes.get(value)) === value ? count(value) : `${sizes.get(value)} (${count(Math.round(value))})`);
    const xAxis = { min: ticks[0] * 0.85, max: ticks[ticks.length - 1] * 1.18, minorTick: { show: false }, axisTick: { customValues: ticks },
      axisLabel: { color: colours().ink, customValues: ticks, formatter: label, hideOverlap: true }, splitLine: { show: false } };
    chart.setOption({ ...frame(chart, data.labels, xAxis), series }, true);
  }

  function training(chart) {
    const series = data.lines.map(({ name, points }, at) => ({ type: 'line', name, ...look(at), lineStyle: { color: colour(at), width: 1, type: 'dotted' },
      data: points.filter(({ seconds }) => seconds > 0).map((point) => ({ value: [point.seconds, point.score], card: said(name, point) })) }));
    chart.setOption({ ...frame(chart, 'seconds to train', {}), series }, true);
  }

  function serving(chart) {
    const names = data.lines.map(({ name }) => name);
    const series = data.served.map(({ name, how, size, milliseconds, score }) => ({ type: 'scatter', name, ...look(names.indexOf(name)), symbolSize: 12,
      data: [{ value: [milliseconds, score], card: [name, `${how}, ${size}`, `${milliseconds.toFixed(2)} ms, ${shown(score)}`] }],
      label: { show: true, position: 'top', formatter: how, color: colours().soft, fontSize: 11 }, labelLayout: { hideOverlap: true } }));
    chart.setOption({ ...frame(chart, 'milliseconds to answer one text', {}), series }, true);
  }

  for (const [name, draw] of [['curves', curves], ['train-costs', training], ['serve-costs', serving]]) {
    const place = document.getElementById(name);
    if (place) open(place, draw);
  }
})();
