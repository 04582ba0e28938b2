// The table of a comparison: scenario means or single runs, and their CSV.
import { find, make, read } from "./lib.js";
import { sortedTable } from "./table.js";

const every = find(element, ".every", "input");
/** @type {Results} */
let content = { columns: [], groups: [], runs: [], csv: "" };

/** @type {(columns: import("./table.js").Column[], rows: Result[]) => void} */
const drawTable = sortedTable(element, {
  sort: { key: "eval_loss", down: false },
  value: (row, key) => row.raw[key],
  cell(row, { key, class: kind }) {
    const dot = key === "name" ? make("i", { class: "dot" }) : null;
    if (dot) dot.style.background = row.color;
    return make("td", { class: kind, title: row.shown[key] }, dot, row.shown[key]);
  },
});

function draw() {
  const single = content.runs.length === content.groups.length; // one run each: no means to show
  find(element, "label").hidden = single;
  const columns = content.columns.map((column) => ({ ...column, class: column.key === "name" ? "is-title" : "number" }));
  drawTable(columns, every.checked || single ? content.runs : content.groups);
}

function readContent() {
  content = { ...content, ...read(props.content, {}) };
  draw();
}

find(element, ".csv").addEventListener("click", () => {
  const link = make("a", { href: URL.createObjectURL(new Blob([content.csv], { type: "text/csv" })), download: "runs.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});
every.addEventListener("change", draw);
watch("content", readContent);
readContent();
