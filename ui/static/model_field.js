// The Model field, an ARIA combobox inside a gr.HTML component. `element`, `props`, `watch`, `trigger` come from it.
// props.value is the chosen name. Names of props are not quoted: gr.HTML takes quoted names for events of its own.
const [HERE, FOUND] = Object.keys({ here: 0, found: 0 });
const PAUSE = 250; // milliseconds without a key before the hub is asked
const LEAST = 2; // letters that are worth a search
const input = element.querySelector("input");
const popup = element.querySelector(".popup");
const list = element.querySelector("[role=listbox]");
const note = element.querySelector("p");

let here = [];
let found = {};
let typed = false; // whether the text is a search, and not yet the value
let options = []; // the rows that are shown, in order
let active = -1;
let timer = 0;

function read(json) {
  try {
    return JSON.parse(json) ?? {};
  } catch {
    return {};
  }
}

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const query = () => (typed ? input.value.trim() : "");
const isOpen = () => !popup.hidden;

// ---- the list

function groups() {
  const words = query().toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (item) => words.every((word) => item.name.toLowerCase().includes(word));
  const shown = here.map((group) => ({ ...group, items: group.items.filter(fits) }));
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
  note.textContent = told();
  point(options.findIndex((option) => option.name === kept));
}

function drawGroup(group, place) {
  const title = make("div", { class: "title", id: `model-group-${place}`, role: "presentation" }, group.title);
  const rows = group.items.map((item) => {
    const row = make("div", { role: "option", id: `model-option-${options.length}`, "aria-selected": "false" },
      make("span", { class: "name" }, item.name), make("span", { class: "detail" }, item.detail));
    row.addEventListener("click", () => choose(item.name));
    options.push({ row, name: item.name });
    return row;
  });
  return make("div", { role: "group", "aria-labelledby": `model-group-${place}` }, title, ...rows);
}

function told() {
  if (query().length >= LEAST && found.query !== query()) return found.offline ? found.note : "Searching the hub…";
  if (query().length >= LEAST || found.offline) return found.note || "";
  return "Type to search the Hugging Face hub, or write owner/name.";
}

function point(place) {
  options[active]?.row.setAttribute("aria-selected", "false");
  active = place;
  const row = options[active]?.row;
  if (!row) return input.removeAttribute("aria-activedescendant");
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

// ---- what a person does

function choose(name) {
  typed = false;
  close();
  input.value = name;
  if (name !== props.value) props.value = name;
}

function settle() {
  if (typed && input.value.trim()) choose(input.value.trim());
  else show();
}

function show() {
  typed = false;
  close();
  input.value = props.value ?? "";
}

function move(step) {
  if (!isOpen()) return open();
  const count = options.length;
  if (count) point(active < 0 ? (step > 0 ? 0 : count - 1) : (active + step + count) % count);
}

input.addEventListener("input", () => {
  typed = true;
  open();
  draw();
  clearTimeout(timer);
  const wanted = query();
  if (wanted.length >= LEAST) timer = setTimeout(() => trigger("search", { query: wanted }), PAUSE);
});
input.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") move(event.key === "ArrowDown" ? 1 : -1);
  else if (event.key === "Enter") active >= 0 ? choose(options[active].name) : settle();
  else if (event.key === "Escape" && isOpen()) show();
  else {
    if (event.key === "Tab" && active >= 0) choose(options[active].name);
    return; // Tab goes on to the next field, and letters are typed
  }
  event.preventDefault();
  event.stopPropagation();
});
input.addEventListener("focus", () => { input.select(); open(); });
input.addEventListener("click", open);
input.addEventListener("blur", settle);
popup.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus

watch("value", () => { if (!typed) show(); });
watch(HERE, () => { here = read(props[HERE]).groups ?? []; if (isOpen()) draw(); });
watch(FOUND, () => { found = read(props[FOUND]); if (isOpen()) draw(); });
show();
