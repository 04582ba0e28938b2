// Keeps the chart that gr.Plot drew up to date. gr.Plot builds its chart anew for every value, which would lose
// the zoom and flicker, so new figures come through this component and Plotly changes the chart in place.
const [FIGURE] = Object.keys({ figure: 0 });
let latest = "";

function draw(tries) {
  const place = document.querySelector("#loss-chart .js-plotly-plot");
  if (!place || !window.Plotly || !place._fullLayout) {
    if (tries > 0) setTimeout(() => draw(tries - 1), 100);
    return;
  }
  const figure = JSON.parse(latest);
  if (place.layout?.uirevision !== figure.layout.uirevision) return; // gr.Plot is drawing another run just now
  window.Plotly.react(place, figure.data, { ...figure.layout, autosize: true });
}

watch(FIGURE, () => {
  latest = props[FIGURE];
  if (latest) draw(30);
});
