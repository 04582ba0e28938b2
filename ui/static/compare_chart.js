// Draws a figure of plotly.js and changes it in place. The page brings plotly.js for gr.Plot; it comes a moment later.
const [FIGURE] = Object.keys({ figure: 0 });
const place = element.querySelector(".chart");
const REMOVED = ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "pan2d", "zoom2d"];
let waiting = 0;

function draw(tries) {
  clearTimeout(waiting);
  let figure;
  try {
    figure = JSON.parse(props[FIGURE] || "{}");
  } catch {
    return;
  }
  if (!figure.data) return;
  if (!window.Plotly || !place.offsetWidth) {
    if (tries > 0) waiting = setTimeout(() => draw(tries - 1), 100);
    return;
  }
  const layout = { ...figure.layout, autosize: true };
  window.Plotly.react(place, figure.data, layout, { displaylogo: false, responsive: true, modeBarButtonsToRemove: REMOVED });
}

watch(FIGURE, () => draw(100));
draw(100);
