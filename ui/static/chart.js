// Draws a plotly.js chart and updates it in place, which keeps its zoom. plotly.js is loaded by a gr.Plot, a moment later.
import { find, read } from "./lib.js";

const place = find(element, ".chart");
const REMOVED = ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "pan2d", "zoom2d"];
const CONFIG = { displaylogo: false, modeBarButtonsToRemove: REMOVED };
const PAUSE = 100; // milliseconds between checks for plotly.js and a visible place
/** @type {ReturnType<typeof setTimeout> | undefined} */
let waiting;

/** @param {number} tries */
function draw(tries) {
  clearTimeout(waiting);
  const figure = read(props.figure, /** @type {Figure} */ ({}));
  if (!figure.data) return;
  if (window.Plotly && place.offsetWidth) {
    window.Plotly.react(place, figure.data, { ...figure.layout, autosize: true }, CONFIG);
  } else if (tries > 0) waiting = setTimeout(() => draw(tries - 1), PAUSE);
}

// its size changes with the window and with what opens next to it
new ResizeObserver(() => {
  if (place.offsetWidth && place.matches(".js-plotly-plot")) window.Plotly?.Plots.resize(place);
}).observe(place);
watch("figure", () => draw(100));
draw(100);
