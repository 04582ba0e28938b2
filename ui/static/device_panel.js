// What the devices are doing: one line, and rows that stay open while the figures change.
import { find, make, read } from "./lib.js";

const panel = find(element, "details", "details");
const line = find(element, "summary");
const body = find(element, "tbody", "tbody");

/** @param {string[]} row */
function drawRow([name, figures]) {
  return make("tr", { class: name.startsWith(" ") ? "part-of" : "" },
    make("th", { scope: "row" }, name.trim()), make("td", {}, figures));
}

function draw() {
  const usage = read(props.usage, /** @type {DeviceUsage | null} */ (null));
  panel.hidden = !usage;
  if (!usage) return;
  line.textContent = usage.line;
  if (panel.open) body.replaceChildren(...usage.rows.map(drawRow));
}

panel.addEventListener("toggle", draw);
watch("usage", draw);
draw();
