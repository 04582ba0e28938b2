// Chooses what to compare: one experiment, or any runs. props.value: {"experiment": id} or {"runs": [ids]}.
import { find, focus, make, matches, read } from "./lib.js";

/** @typedef {"experiments" | "runs"} Kind */

const FIRST_ROWS = 12; // a button shows the others
const MAX_ROWS = 300; // drawn at once
const limits = { experiments: FIRST_ROWS, runs: FIRST_ROWS };
/** @type {Record<Kind, HTMLElement>} */
const places = { experiments: find(element, ".experiments"), runs: find(element, ".singles") };
const search = find(element, "input[type=search]", "input");
const NONE = {
  experiments: "None yet. Open “Run scenarios” above to start one.",
  runs: "None yet. Press Train on the Train tab.",
};
/** @type {Record<Kind, Choice[]>} */
let lists = { experiments: [], runs: [] };

function chosen() {
  const value = read(props.value, /** @type {{ experiment?: string, runs?: string[] }} */ ({}));
  return { experiment: value.experiment ?? "", runs: new Set(value.runs) };
}

/**
 * @param {Kind} kind
 * @param {string} id
 * @param {boolean} on
 */
function choose(kind, id, on) {
  const { runs } = chosen();
  if (on) runs.add(id);
  else runs.delete(id);
  props.value = JSON.stringify(kind === "experiments" ? { experiment: id } : { runs: [...runs] });
  paint();
}

/** @type {Map<string, HTMLElement>} */
const lines = new Map(); // kept while the list changes: a click in progress would be lost with its line

/**
 * @param {Kind} kind
 * @param {Choice} row
 */
function line(kind, row) {
  const label = lines.get(row.id) ?? newLine(kind, row);
  lines.set(row.id, label);
  const [name, state, note] = label.querySelectorAll(".name, .pill, small");
  if (name.textContent !== row.name) name.textContent = row.name;
  name.setAttribute("title", row.name);
  state.className = `pill ${row.state}`;
  if (state.textContent !== row.state) state.textContent = row.state;
  if (note.textContent !== row.note) note.textContent = row.note;
  return label;
}

/**
 * @param {Kind} kind
 * @param {Choice} row
 */
function newLine(kind, row) {
  const input = make("input", {
    type: kind === "experiments" ? "radio" : "checkbox", name: kind, value: row.id,
    onchange: () => choose(kind, row.id, input.checked),
  });
  return make("label", {}, input,
    make("span", { class: "name" }), make("span", { class: "pill" }), make("small"));
}

/** @param {Choice} row */
const words = (row) => `${row.name} ${row.state} ${row.note} ${row.id}`;

/** @param {Kind} kind */
function drawList(kind) {
  const rows = lists[kind].filter((row) => kind === "experiments" || matches(search.value, words(row)));
  const shown = rows.slice(0, limits[kind]).map((row) => line(kind, row));
  const end = listEnd(kind, rows.length);
  const there = [...places[kind].children];
  if (!end && there.length === shown.length && shown.every((label, place) => label === there[place])) return;
  places[kind].replaceChildren(...shown, ...(end ? [end] : []));
}

/**
 * What stands below the rows that are drawn.
 * @param {Kind} kind
 * @param {number} count
 */
function listEnd(kind, count) {
  if (!count) return make("p", { class: "quiet" }, lists[kind].length ? "No matching runs." : NONE[kind]);
  if (count <= limits[kind]) return null;
  if (limits[kind] === MAX_ROWS)
    return make("p", { class: "quiet" }, `The first ${MAX_ROWS} of ${count}. Search to find the others.`);
  return make("button", { type: "button", class: "rest", onclick: () => {
    limits[kind] = MAX_ROWS;
    draw();
  } }, `Show all ${count.toLocaleString("en")}`);
}

function draw() {
  const focused = document.activeElement;
  const kept = focused instanceof HTMLInputElement && focused !== search && element.contains(focused) ? focused.value : "";
  drawList("experiments");
  drawList("runs");
  paint();
  if (kept) focus(element, kept);
}

function paint() {
  const { experiment, runs } = chosen();
  for (const label of element.querySelectorAll("label")) {
    const input = find(label, "input", "input");
    input.checked = input.type === "radio" ? input.value === experiment : runs.has(input.value);
    label.classList.toggle("chosen", input.checked);
  }
}

function readLists() {
  lists = { experiments: [], runs: [], ...read(props.lists, {}) };
  draw();
}

search.addEventListener("input", draw);
watch("lists", readLists);
watch("value", paint);
readLists();
