'use strict';
// A map of texts: points coloured by one of several modes, a legend that toggles, hover, search. Drawn by ECharts.
function embedkitMap(root) {
  const MOST_GROUPS = 60;  // that have a colour of their own; smaller ones share one
  const MOST_FOUND = 50;  // listed below the map
  const REACH = 14;  // pixels between the pointer and the point that it means
  const PAD = 0.04;
  const { colour, colours, count, data: read, element } = embedkit;
  const data = read(root.dataset.points);
  const n = data.x.length;
  const find = (name) => root.querySelector(name);
  const card = find('.map-card'), legend = find('.map-legend'), found = find('.map-found');
  const search = find('.map-search'), select = find('.map-colour');
  const lowered = data.texts && data.texts.map((parts) => parts.join('\n').toLowerCase());
  const base = n <= 500 ? 9 : n <= 3000 ? 6 : n <= 10000 ? 4 : 3;
  const ends = [data.x, data.y].map((values) => values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]));
  const hidden = new Set();
  let groups = [], groupOf = new Int32Array(n), matched = null, zoom = 1, pinned = -1, chart = null;

  // The groups of a mode, the largest first, so that small ones are drawn on top.
  function regroup() {
    const mode = data.modes[select.selectedIndex];
    const sizes = new Map();
    for (const code of mode.codes) sizes.set(code, (sizes.get(code) || 0) + 1);
    const ranked = [...sizes.keys()].sort((a, b) => sizes.get(b) - sizes.get(a) || a - b);
    const own = ranked.slice(0, ranked.length > MOST_GROUPS ? MOST_GROUPS - 1 : MOST_GROUPS);
    const place = new Map(own.map((code, at) => [code, at]));
    groups = own.map((code) => ({ name: code < 0 ? mode.none : mode.names[code], code, size: sizes.get(code) }));
    const rest = ranked.length - own.length;
    if (rest) groups.push({ name: `${count(rest)} smaller ones`, code: null, size: 0 });
    groupOf = Int32Array.from(mode.codes, (code) => (place.has(code) ? place.get(code) : groups.length - 1));
    if (rest) groups[groups.length - 1].size = groupOf.filter((at) => at === groups.length - 1).length;
    hidden.clear();
  }

  function paint(at) {
    const mode = data.modes[select.selectedIndex], { code } = groups[at];
    if (code === null || code < 0) return colours().pale;
    if (mode.key === 'error') return code === 0 ? colours().pale : colours().wrong;
    return colour(code);
  }

  const live = (i) => !hidden.has(groupOf[i]) && (!matched || matched[i]);

  function series() {
    const parts = [];
    const size = Math.min(12, base * Math.sqrt(zoom));
    const strong = (at) => (paint(at) === colours().pale ? colours().ink : paint(at));
    const add = (at, inside, opacity, larger) => {
      const points = [];
      for (let i = 0; i < n; i++) if (groupOf[i] === at && inside(i)) points.push(data.x[i], data.y[i]);
      if (!points.length) return;  // ECharts draws no large series without points, and fails at it
      parts.push({
        type: 'scatter', name: `${at} ${opacity}`, large: true, largeThreshold: 0, progressive: 0, silent: true, animation: false,
        symbol: 'circle', symbolSize: size + larger, dimensions: ['x', 'y'], data: new Float32Array(points),
        itemStyle: { color: larger ? strong(at) : paint(at), opacity },
      });
    };
    const shown = groups.map((_, at) => at).filter((at) => !hidden.has(at));
    for (const at of shown) add(at, (i) => !matched || !matched[i], matched ? 0.1 : 0.75, 0);
    if (matched) for (const at of shown) add(at, (i) => matched[i] === 1, 1, 3);
    return parts;
  }

  // One unit is as many pixels along as up; the shorter side gets a wider margin.
  function axes() {
    const width = chart.getWidth(), height = chart.getHeight();
    const span = ends.map(([least, most]) => (most - least || 1) * (1 + 2 * PAD));
    const unit = Math.max(span[0] / width, span[1] / height);
    return [width, height].map((pixels, axis) => {
      const middle = (ends[axis][0] + ends[axis][1]) / 2, half = (unit * pixels) / 2;
      return { type: 'value', show: false, min: middle - half, max: middle + half, splitLine: { show: false } };
    });
  }

  function draw(opened) {
    chart = opened;
    const [xAxis, yAxis] = axes();
    const zooms = [{ xAxisIndex: 0 }, { yAxisIndex: 0 }].map((axis) => ({ type: 'inside', filterMode: 'none', ...axis }));
    chart.setOption({ animation: false, grid: { left: 0, right: 0, top: 0, bottom: 0 }, xAxis, yAxis, dataZoom: zooms });
    repaint();
  }

  function repaint() {
    chart.setOption({ series: series() }, { replaceMerge: ['series'] });
    [...legend.querySelectorAll('i')].forEach((mark, at) => { mark.style.background = paint(at); });
    marker.attr({ style: { fill: 'none', stroke: colours().ink, lineWidth: 2 } });
    let shown = 0;
    for (let i = 0; i < n; i++) shown += live(i);
    find('.map-count').textContent = matched ? `${count(shown)} of ${count(n)} points found` : `${count(shown)} of ${count(n)} points`;
  }

  function relegend() {
    legend.replaceChildren(...groups.map((group, at) => {
      const button = element('button');
      button.type = 'button';
      button.append(element('i'), element('bdi', group.name), element('b', count(group.size)));
      button.addEventListener('click', () => toggle([at], !hidden.has(at)));
      const item = element('li');
      item.append(button);
      return item;
    }));
    toggle([], false);
  }

  function toggle(places, hide) {
    for (const at of places) if (hide) hidden.add(at); else hidden.delete(at);
    [...legend.querySelectorAll('button')].forEach((button, at) => button.setAttribute('aria-pressed', String(!hidden.has(at))));
    forget();
    if (chart) repaint();
  }

  // ------------------------------------------------------------------------------------------------ one point

  const marker = new echarts.graphic.Circle({ shape: { cx: 0, cy: 0, r: 8 }, silent: true, ignore: true, zlevel: 9 });

  // The nearest point that is shown, -1 where none is near: 20,000 distances take less time than a frame.
  function nearest(px, py) {
    const [x, y] = chart.convertFromPixel({ gridIndex: 0 }, [px, py]);
    const [right, below] = chart.convertFromPixel({ gridIndex: 0 }, [px + 1, py + 1]);
    const across = 1 / (right - x), down = 1 / (below - y);
    let best = -1, least = REACH * REACH;
    for (let i = 0; i < n; i++) {
      const dx = (data.x[i] - x) * across, dy = (data.y[i] - y) * down, far = dx * dx + dy * dy;
      if (far < least && live(i)) { least = far; best = i; }
    }
    return best;
  }

  function describe(i) {
    const parts = data.texts ? data.texts[i].map((text) => { const p = element('p', text, 'quote'); p.dir = 'auto'; return p; }) : [];
    for (const mode of data.modes) {
      if (mode.key === 'error') continue;
      const sure = mode.key === 'prediction' && data.confidence ? ` (${data.confidence[i].toFixed(3)})` : '';
      const line = element('p', `${mode.title}: `, 'note');
      line.append(element('bdi', mode.codes[i] < 0 ? mode.none : mode.names[mode.codes[i]]), sure);
      parts.push(line);
    }
    parts.push(element('p', `Row ${count(data.rows[i])}`, 'note'));
    return parts;
  }

  function show(i, pin) {
    const [px, py] = chart.convertToPixel({ gridIndex: 0 }, [data.x[i], data.y[i]]);
    marker.attr({ shape: { cx: px, cy: py, r: 8 }, ignore: false });
    card.replaceChildren(...describe(i));
    card.hidden = false;
    card.toggleAttribute('data-pinned', pin);
    pinned = pin ? i : -1;
    const width = chart.getWidth(), height = chart.getHeight();
    const left = px + 14 + card.offsetWidth < width ? px + 14 : px - 14 - card.offsetWidth;
    const top = py + 14 + card.offsetHeight < height ? py + 14 : py - 14 - card.offsetHeight;
    card.style.left = `${Math.max(4, left)}px`;
    card.style.top = `${Math.max(4, Math.min(top, height - card.offsetHeight - 4))}px`;
  }

  function forget() {
    card.hidden = true;
    pinned = -1;
    marker.attr({ ignore: true });
  }

  function whole() {
    chart.dispatchAction({ type: 'dataZoom', batch: [0, 1].map((at) => ({ dataZoomIndex: at, start: 0, end: 100 })) });
  }

  // ------------------------------------------------------------------------------------------------ search

  function look() {
    const wanted = search.value.trim().toLowerCase();
    matched = wanted ? Uint8Array.from(lowered, (text) => text.includes(wanted)) : null;
    forget();
    repaint();
    const places = [];
    for (let i = 0; matched && i < n && places.length < MOST_FOUND; i++) if (live(i)) places.push(i);
    found.replaceChildren(...places.map(listed));
    found.hidden = !places.length;
  }

  function listed(i) {
    const button = element('button', data.texts[i].join(' / '));
    button.type = 'button';
    button.dir = 'auto';
    const mode = data.modes[select.selectedIndex];
    button.append(' ', element('small', mode.codes[i] < 0 ? mode.none : mode.names[mode.codes[i]]));
    button.addEventListener('click', () => { whole(); show(i, true); find('.map-stage').scrollIntoView({ block: 'nearest' }); });
    const item = element('li');
    item.append(button);
    return item;
  }

  // ------------------------------------------------------------------------------------------------ begin

  for (const mode of data.modes) select.append(element('option', mode.title));
  regroup();
  relegend();
  embedkit.open(find('.map-chart'), draw);
  const ground = chart.getZr();
  ground.add(marker);
  ground.on('mousemove', ({ offsetX, offsetY }) => {
    if (pinned >= 0) return;
    const i = nearest(offsetX, offsetY);
    if (i < 0) forget(); else show(i, false);
  });
  ground.on('globalout', () => { if (pinned < 0) forget(); });
  ground.on('click', ({ offsetX, offsetY }) => {
    const i = nearest(offsetX, offsetY);
    if (i < 0 || i === pinned) forget(); else show(i, true);
  });
  let timer = 0;
  chart.on('datazoom', () => {
    forget();
    const { start, end } = chart.getOption().dataZoom[0];
    zoom = 100 / Math.max(0.1, end - start);
    clearTimeout(timer);
    timer = setTimeout(repaint, 120);
  });
  select.addEventListener('change', () => { regroup(); relegend(); if (lowered) look(); });
  find('.map-all').addEventListener('click', () => toggle(groups.map((_, at) => at), false));
  find('.map-none').addEventListener('click', () => toggle(groups.map((_, at) => at), true));
  find('.map-whole').addEventListener('click', whole);
  if (lowered) {
    let waiting = 0;
    search.addEventListener('input', () => { clearTimeout(waiting); waiting = setTimeout(look, 150); });
  }
  root.addEventListener('keydown', (event) => { if (event.key === 'Escape') forget(); });
}
document.querySelectorAll('.map').forEach(embedkitMap);
