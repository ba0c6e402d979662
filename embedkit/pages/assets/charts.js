'use strict';
// What the charts of a page share: its data, its colours by theme, and drawing anew when theme or size change.
const embedkit = (() => {
  // Okabe and Ito's colours, which colour-blind readers tell apart too; black and yellow are for the ground that bears them.
  const LIGHT = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#8C564B', '#000000'];
  const DARK = ['#4FA8E0', '#FF8A3D', '#2FC79A', '#E79BC6', '#F5C242', '#8FD3FF', '#C89A8B', '#F2F2F2'];
  const GOLDEN = 137.508;  // degrees: neighbours in a long list get hues far apart
  const PRINTED = 680;  // pixels of a page's width
  const night = window.matchMedia('(prefers-color-scheme: dark)');
  const charts = [];
  let printing = false;

  const dark = () => night.matches && !printing;
  const colours = () => (dark()
    ? { ink: '#e8eaee', soft: '#a4abb6', line: '#363b45', pale: '#4a505c', wrong: '#FF8A3D', ground: '#14161a' }
    : { ink: '#16181d', soft: '#565c66', line: '#d6dae0', pale: '#b9c0ca', wrong: '#D55E00', ground: '#ffffff' });

  function colour(place) {
    const base = dark() ? DARK : LIGHT;
    if (place < base.length) return base[place];
    return `hsl(${Math.round(place * GOLDEN) % 360}, 60%, ${(dark() ? 62 : 40) + 10 * (place % 2)}%)`;
  }

  // Opens a chart in an element; `draw` is called with it, and again when the theme changes.
  function open(place, draw) {
    const chart = echarts.init(place, null, { renderer: 'canvas' });
    const redraw = () => draw(chart);
    charts.push({ chart, redraw });
    redraw();
    new ResizeObserver(() => { if (!printing) { chart.resize(); redraw(); } }).observe(place);
    return chart;
  }

  function redraw(print) {
    printing = print;
    for (const { chart, redraw: again } of charts) {
      chart.resize({ width: print ? Math.min(PRINTED, chart.getDom().clientWidth) : 'auto' });
      again();
    }
  }
  night.addEventListener('change', () => redraw(printing));
  window.addEventListener('beforeprint', () => redraw(true));
  window.addEventListener('afterprint', () => redraw(false));

  // Texts become text nodes, so that none of them is read as HTML.
  function element(name, text = '', kind = '') {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  }

  const data = (id) => JSON.parse(document.getElementById(id).textContent);
  const count = (number) => number.toLocaleString('en');
  return { colour, colours, count, data, element, open };
})();
