// The Model field, an ARIA combobox. props.value is the chosen name.
import { find, make, matches, read } from "./lib.js";

const PAUSE = 250; // milliseconds without a keystroke before the hub is searched
const MIN_QUERY = 2; // shortest query worth a search
const input = find(element, "input", "input");
const popup = find(element, ".popup");
const list = find(element, "[role=listbox]");
const note = find(element, "p");

/** @type {ModelGroup[]} */
let here = [];
/** @type {FoundModels} */
let found = {};
let isSearch = false; // whether the text is a query rather than the value
/** @type {{ row: HTMLElement, name: string }[]} */
let options = []; // the visible rows, in order
let active = -1;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

const query = () => (isSearch ? input.value.trim() : "");
const isOpen = () => !popup.hidden;

// ---- the list

function groups() {
  const shown = here.map(({ title, items }) => ({ title, items: items.filter((item) => matches(query(), item.name)) }));
  const known = new Set(here.flatMap((group) => group.items.map((item) => item.name)));
  const fresh = found.query === query() ? (found.items ?? []) : [];
  shown.push({ title: "On the Hugging Face hub", items: fresh.filter((item) => !known.has(item.name)) });
  return shown.filter((group) => group.items.length);
}

function draw() {
  const kept = options[active]?.name;
  options = [];
  list.replaceChildren(...groups().map(drawGroup));
  list.hidden = options.length === 0;
  note.textContent = hint();
  point(options.findIndex((option) => option.name === kept));
}

/**
 * @param {ModelGroup} group
 * @param {number} place
 */
function drawGroup(group, place) {
  const title = make("div", { class: "title", id: `model-group-${place}`, role: "presentation" }, group.title);
  const rows = group.items.map((item) => {
    const row = make("div", { role: "option", id: `model-option-${options.length}`, "aria-selected": "false", onclick: () => choose(item.name) },
      make("span", { class: "name" }, item.name), make("span", { class: "detail" }, item.detail));
    options.push({ row, name: item.name });
    return row;
  });
  return make("div", { role: "group", "aria-labelledby": `model-group-${place}` }, title, ...rows);
}

function hint() {
  if (query().length >= MIN_QUERY && found.query !== query()) return found.offline ? (found.note ?? "") : "Searching the hub…";
  if (query().length >= MIN_QUERY || found.offline) return found.note || "";
  return "Type to search the Hugging Face hub, or write owner/name.";
}

/** @param {number} place */
function point(place) {
  options[active]?.row.setAttribute("aria-selected", "false");
  active = place;
  const row = options[active]?.row;
  if (!row) {
    input.removeAttribute("aria-activedescendant");
    return;
  }
  row.setAttribute("aria-selected", "true");
  input.setAttribute("aria-activedescendant", row.id);
  row.scrollIntoView({ block: "nearest" });
}

function open() {
  if (isOpen()) return;
  popup.hidden = false;
  input.setAttribute("aria-expanded", "true");
  trigger("look");
  draw();
}

function close() {
  clearTimeout(timer);
  popup.hidden = true;
  input.setAttribute("aria-expanded", "false");
  point(-1);
}

// ---- user input

/** @param {string} name */
function choose(name) {
  isSearch = false;
  close();
  input.value = name;
  if (name !== props.value) props.value = name;
}

function settle() {
  if (isSearch && input.value.trim()) choose(input.value.trim());
  else show();
}

function show() {
  isSearch = false;
  close();
  input.value = props.value ?? "";
}

/** @param {1 | -1} step */
function move(step) {
  const count = options.length;
  if (!isOpen()) open();
  else if (count) point(active < 0 ? (step > 0 ? 0 : count - 1) : (active + step + count) % count);
}

input.addEventListener("input", () => {
  isSearch = true;
  open();
  draw();
  clearTimeout(timer);
  const text = query();
  if (text.length >= MIN_QUERY) timer = setTimeout(() => trigger("search", { query: text }), PAUSE);
});
input.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") move(event.key === "ArrowDown" ? 1 : -1);
  else if (event.key === "Enter") {
    if (active >= 0) choose(options[active].name);
    else settle();
  } else if (event.key === "Escape" && isOpen()) show();
  else {
    if (event.key === "Tab" && active >= 0) choose(options[active].name);
    return; // Tab moves to the next field, and letters are typed
  }
  event.preventDefault();
  event.stopPropagation();
});
input.addEventListener("focus", () => { input.select(); open(); });
input.addEventListener("click", open);
input.addEventListener("blur", settle);
popup.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus

watch("value", () => { if (!isSearch) show(); });
watch("here", () => { here = read(props.here, { groups: [] }).groups; if (isOpen()) draw(); });
watch("found", () => { found = read(props.found, {}); if (isOpen()) draw(); });
show();
