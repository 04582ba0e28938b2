// The table of all runs: search, sort, show one, select many. props.value is the id of the run that is shown.
import { distinct } from "./distinct.js";
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
const SHORTENED = ["name", "model", "modules"];
const search = find(element, ".runs-search input", "input");
const empty = find(element, ".empty");
const bar = find(element, ".selection");
const every = find(bar, "input", "input");
const dialog = find(element, "dialog", "dialog");
/** @type {Run[] | null} */
let runs = null; // not loaded yet
/** @type {Run[]} */
let visible = [];
/** @type {Record<string, Map<string, string>>} */
let short = {};
/** @type {Set<string>} */
const selected = new Set();
let last = ""; // the run that was ticked before

/** @type {(columns: import("./table.js").Column[], rows: Run[]) => void} */
const drawTable = sortedTable(element, {
  sort: { key: "created", down: true },
  value: (run, key) => run[key],
  cell,
  id: (run) => run.id,
  decorate(line, run) {
    line.dataset.id = run.id;
    paintLine(line);
    line.addEventListener("click", ({ target }) => {
      if (!(target instanceof Element && target.closest(".is-tick"))) choose(run.id);
    });
  },
});

/**
 * @param {Run} run
 * @param {import("./table.js").Column} column
 */
function cell(run, { key, class: kind }) {
  const text = run.shown[key] ?? String(run[key] ?? "");
  const node = make("td", { class: kind, title: text });
  if (key === "state") node.append(tick(run), make("span", { class: `pill ${run.state}` }, text));
  else if (key === "name") {
    const radio = make("input", { type: "radio", name: "run", value: run.id, "aria-label": text, onchange: () => choose(run.id) });
    node.append(make("label", {}, radio, shortened(key, text)));
  } else node.append(shortened(key, text));
  return node;
}

/**
 * The text as the column shows it; assistive technology reads all of it.
 * @param {string} key
 * @param {string} text
 */
function shortened(key, text) {
  const shown = short[key]?.get(text) ?? text;
  if (shown === text) return make("span", {}, text);
  return make("span", {}, make("span", { "aria-hidden": "true" }, shown), make("span", { class: "sr-only" }, text));
}

/** @param {Run} run */
function tick(run) {
  const box = make("input", { type: "checkbox", value: `tick ${run.id}`, "aria-label": `Select ${run.shown.name ?? run.name}` });
  box.addEventListener("click", (event) => {
    event.stopPropagation();
    select(run.id, box.checked, event.shiftKey);
  });
  return make("label", { class: "is-tick" }, box);
}

/**
 * @param {string} id
 * @param {boolean} on
 * @param {boolean} range whether all rows since the one that was ticked before are meant
 */
function select(id, on, range) {
  const ids = [...element.querySelectorAll("tbody tr")].map((line) => (line instanceof HTMLElement && line.dataset.id) || "");
  const [first, second] = [ids.indexOf(range && ids.includes(last) ? last : id), ids.indexOf(id)];
  for (const each of ids.slice(Math.min(first, second), Math.max(first, second) + 1))
    if (on) selected.add(each);
    else selected.delete(each);
  last = id;
  paint();
}

/** @param {Run} run */
const words = (run) => [run.state, run.name, run.model, run.modules, run.data, run.id, run.shown.created].join(" ");

/** @param {string} id */
function choose(id) {
  props.value = id;
  paint();
}

/** @param {HTMLElement} line */
function paintLine(line) {
  const id = line.dataset.id ?? "";
  find(line, "[type=radio]", "input").checked = id === props.value;
  find(line, "[type=checkbox]", "input").checked = selected.has(id);
  line.classList.toggle("chosen", id === props.value);
}

function paint() {
  for (const line of element.querySelectorAll("tbody tr")) if (line instanceof HTMLElement) paintLine(line);
  const count = selected.size;
  const shown = visible.filter((run) => selected.has(run.id)).length;
  every.checked = shown > 0 && shown === visible.length;
  every.indeterminate = shown > 0 && shown < visible.length;
  bar.hidden = visible.length < 2 && !count;
  const hidden = count > shown ? `, ${count - shown} of them not shown` : "";
  find(bar, ".count").textContent = count ? `${count} selected${hidden}` : "Select all";
  for (const button of bar.querySelectorAll("button")) button.hidden = !count;
}

function draw() {
  const matching = (runs ?? []).filter((run) => matches(search.value, words(run)));
  visible = matching;
  short = Object.fromEntries(SHORTENED.map((key) => [key, distinct(matching.map((run) => String(run[key] ?? "")))]));
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
  if (runs?.length) return ["No matching runs", "Try another word from the name, model, modules, data or state."];
  return ["No runs yet", "Start one on the Train tab. Its settings, log and adapter are kept here."];
}

// ended runs are sent once, open ones whenever they change
function readRuns() {
  runs = props.ended ? [...read(props.ended, []), ...read(props.open, [])] : null;
  const known = new Set((runs ?? []).map((run) => run.id));
  for (const id of selected) if (!known.has(id)) selected.delete(id);
}

/**
 * Ask before deleting; Escape and Cancel close the question.
 * @param {string[]} ids
 */
function askToDelete(ids) {
  const names = (runs ?? []).filter((run) => ids.includes(run.id)).map((run) => run.name);
  find(dialog, "h2", "h2").textContent = ids.length === 1 ? "Delete this run?" : `Delete ${ids.length} runs?`;
  find(dialog, "ul", "ul").replaceChildren(...names.map((name) => make("li", {}, name)));
  dialog.dataset.ids = JSON.stringify(ids);
  dialog.showModal();
  find(dialog, ".cancel", "button").focus();
}

/** @param {string} action */
function act(action) {
  const ids = [...selected];
  if (action === "clear") selected.clear();
  else if (action === "delete") askToDelete(ids);
  else if (action === "compare") trigger("picked", { ids });
  else trigger("batch", { action, ids });
  paint();
}

for (const button of bar.querySelectorAll("button"))
  button.addEventListener("click", () => act(button.dataset.action ?? ""));
every.addEventListener("change", () => {
  for (const run of visible)
    if (every.checked) selected.add(run.id);
    else selected.delete(run.id);
  paint();
});
find(dialog, "#run-really").addEventListener("click", () => {
  trigger("batch", { action: "delete", ids: JSON.parse(dialog.dataset.ids ?? "[]") });
  dialog.close();
});
find(dialog, ".cancel").addEventListener("click", () => dialog.close());
Object.assign(window, { askToDelete });
search.addEventListener("input", draw);
watch(["ended", "open"], () => { readRuns(); draw(); });
watch("value", paint);
readRuns();
draw();
