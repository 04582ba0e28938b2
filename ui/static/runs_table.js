// The table of all runs: search, sort, select one. props.value is the selected run's id.
import { find, make, matches, read } from "./lib.js";
import { overflow, sortedTable } from "./table.js";

/** @type {import("./table.js").Column[]} */
const COLUMNS = [
  { key: "state", title: "State", class: "is-state" },
  { key: "name", title: "Run", class: "is-name" },
  { key: "model", title: "Model", class: "is-model" },
  { key: "modules", title: "Modules", class: "is-modules" },
  { key: "loss", title: "Loss", class: "number" },
  { key: "eval_loss", title: "Eval loss", class: "number" },
  { key: "trainable", title: "Trainable", class: "number", down: true },
  { key: "elapsed", title: "Time", class: "number", down: true },
  { key: "created", title: "Started", class: "number", down: true },
];
const search = find(element, "input[type=search]", "input");
const empty = find(element, ".empty");
/** @type {Run[] | null} */
let runs = null; // not loaded yet

/** @type {(columns: import("./table.js").Column[], rows: Run[]) => void} */
const drawTable = sortedTable(element, {
  sort: { key: "created", down: true },
  value: (run, key) => run[key],
  cell,
  decorate(line, run) {
    line.dataset.id = run.id;
    line.addEventListener("click", () => choose(run.id));
  },
});

/**
 * @param {Run} run
 * @param {import("./table.js").Column} column
 */
function cell(run, { key, class: kind }) {
  const text = run.shown[key] ?? String(run[key] ?? "");
  const node = make("td", { class: kind, title: text });
  if (key === "state") node.append(make("span", { class: `pill ${run.state}` }, text));
  else if (key === "name") {
    const radio = make("input", { type: "radio", name: "run", value: run.id, onchange: () => choose(run.id) });
    node.append(make("label", {}, radio, text));
  } else node.append(text);
  return node;
}

/** @param {Run} run */
const words = (run) => [run.state, run.name, run.model, run.modules, run.id, run.shown.created].join(" ");

/** @param {string} id */
function choose(id) {
  props.value = id;
  paint();
}

function paint() {
  for (const line of element.querySelectorAll("tbody tr")) {
    const radio = find(line, "input", "input");
    radio.checked = radio.value === props.value;
    line.classList.toggle("chosen", radio.checked);
  }
}

function draw() {
  const matching = (runs ?? []).filter((run) => matches(search.value, words(run)));
  drawTable(COLUMNS, matching);
  const [title, text] = note(matching.length);
  empty.hidden = !runs || !title;
  find(empty, "strong").textContent = title;
  find(empty, "span").textContent = text;
  paint();
}

/**
 * The note below the table: a title and a sentence.
 * @param {number} count
 */
function note(count) {
  if (overflow(count)) return [overflow(count), "Search to find the others."];
  if (count) return ["", ""];
  if (runs?.length) return ["No run matches", "Search for another word of its name, model, modules or state."];
  return ["No run yet", "Start one on the Train tab; it is kept here with its settings and adapter."];
}

// ended runs are sent once, open ones whenever they change
function readRuns() {
  runs = props.ended ? [...read(props.ended, []), ...read(props.open, [])] : null;
}

search.addEventListener("input", draw);
watch(["ended", "open"], () => { readRuns(); draw(); });
watch("value", paint);
readRuns();
draw();
