// The modules panel. props.value: the ticks as JSON, which hold the selection; `map` and `receipts` are read-only.
import { drawFlow, drawPicture, paintPicture } from "./block_picture.js";
import { find, make, read, recall, remember, typed } from "./lib.js";
import { TREATED } from "./picture_layout.js";
import { presetMenu } from "./preset_menu.js";
import { adjustTick, inOrder, OWN, setTick } from "./ticks.js";

const PICTURE_KEY = "lab-picture";
const wide = matchMedia("(min-width: 1400px)"); // the picture fits next to the ticks
const root = find(element, ".modules");
const head = find(element, ".fact");
const frame = find(element, ".picture");

/** @typedef {{ data: ModuleRow, node: HTMLElement, box: HTMLInputElement, choice: HTMLElement, note: HTMLElement,
 *   more: HTMLElement, extras: HTMLElement }} Row a row of the panel and its elements */

/** @type {ModulesMap} */
let map = { state: "" };
/** @type {Map<string, Row>} */
let rows = new Map();
/** @type {Map<string, Tick>} */
let ticks = new Map();
/** @type {Record<string, MatchReport>} */
let receipts = {};
/** @type {Set<string>} */
let open = new Set(); // names whose own settings are expanded

const presets = presetMenu({
  choose: (preset) => {
    ticks = new Map(preset.ticks.map((item) => [item.name, { ...item }]));
    save();
  },
  keep: (title) => trigger("keep", { title }),
  discard: (group, title) => trigger("discard", { group, title }),
});

function save() {
  props.value = JSON.stringify(inOrder(ticks, rows.keys()));
  paint();
}

// ---- user input

/**
 * @param {string} name
 * @param {Treatment} treatment
 */
function tick(name, treatment) {
  setTick(ticks, [...rows.values()].map((row) => row.data), name, treatment);
}

/**
 * @param {string} name
 * @param {boolean} on
 * @param {Treatment} treatment
 */
function toggle(name, on, treatment) {
  if (on) tick(name, treatment);
  else ticks.delete(name);
  save();
}

/**
 * @param {ModuleGroup} group
 * @param {boolean} on
 */
function setGroup(group, on) {
  for (const row of group.rows) ticks.delete(row.name);
  if (on)
    for (const row of group.rows)
      if (row.first && !row.slice_of && row.size !== "tied") tick(row.name, row.first);
  save();
}

/**
 * @param {string} name
 * @param {typeof OWN[number]} key
 * @param {string} value
 */
function adjust(name, key, value) {
  if (key === "layers" && receipts[name]) delete receipts[name].layers;
  adjustTick(ticks, name, key, value);
  save();
}

/** @param {string} name clicked in the picture: show the row with its tick */
function showRow(name) {
  const row = rows.get(name);
  if (!row) return;
  row.node.closest("details")?.setAttribute("open", "");
  row.node.scrollIntoView({ block: "center" });
  (row.box.disabled ? row.node : row.box).focus({ preventScroll: true });
  row.node.classList.remove("found");
  requestAnimationFrame(() => row.node.classList.add("found"));
}

// ---- drawing: once for every map

function draw() {
  rows = new Map();
  root.replaceChildren();
  head.replaceChildren();
  root.classList.toggle("waiting", map.state !== "ready");
  if (map.state !== "ready") {
    root.append(
      make("div", { class: `notice ${map.state}`, role: "status" },
        make("strong", {}, map.title ?? ""), make("span", {}, map.text ?? "")),
    );
    frame.replaceChildren();
    frame.hidden = !wantsPicture();
    return;
  }
  drawHead();
  showPicture(wantsPicture());
  root.append(presets.place, ...(map.groups ?? []).map(drawGroup));
  const missing = make("fieldset", { class: "group missing" },
    make("legend", {}, make("span", { class: "title" }, "Not in this model")), make("div", { class: "rows" }));
  root.insertBefore(missing, root.querySelector(".other"));
  drawPicture(frame, map.picture ?? [], showRow);
  paint();
}

function drawHead() {
  const button = make("button", { type: "button", id: "picture-toggle", "aria-controls": "block-picture", onclick: () => {
    if (wide.matches) remember(PICTURE_KEY, frame.hidden ? "open" : "closed");
    showPicture(Boolean(frame.hidden));
  } }, "Picture");
  head.append(make("span", {}, map.fact), button);
}

// where there is no room beside the ticks, it starts folded
const wantsPicture = () => wide.matches && recall(PICTURE_KEY) !== "closed";

/** @param {boolean} visible */
function showPicture(visible) {
  frame.hidden = !visible;
  head.querySelector("#picture-toggle")?.setAttribute("aria-expanded", String(visible));
  if (visible) requestAnimationFrame(drawFlow);
}

/** @param {ModuleGroup} group */
function drawGroup(group) {
  /** @type {(text: string, on: boolean) => HTMLElement} */
  const button = (text, on) =>
    make("button", { type: "button", class: "link", "aria-label": `${group.title}: ${text}`, onclick: () => setGroup(group, on) }, text);
  const list = make("div", { class: "rows" }, ...group.rows.map(drawRow));
  if (group.key === "other" || group.key === "towers")
    return make("details", { class: `group other ${group.key}` },
      make("summary", {}, make("span", { class: "title" }, group.title), make("span", { class: "hint" }, group.hint)), list);
  return make("fieldset", { class: "group", "data-group": group.key },
    make("legend", {},
      make("span", { class: "title" }, group.title), make("span", { class: "count" }),
      make("span", { class: "allnone" }, button("all", true), button("none", false))),
    list);
}

/** @param {ModuleRow} data */
function drawRow(data) {
  const off = data.treatments.length === 0;
  const box = make("input", { type: "checkbox", disabled: off, "data-name": data.name,
    onchange: () => toggle(data.name, box.checked, data.first || "lora") });
  const more = make("button", { type: "button", class: "link more", "aria-expanded": "false",
    "aria-label": `adjust rank, alpha, learning rate and layers of ${data.name}`,
    title: "Rank, alpha, learning rate and layers of this kind alone",
    onclick: () => { if (!open.delete(data.name)) open.add(data.name); paint(); } }, "adjust");
  const choice = drawChoice(data);
  const note = make("div", { class: "note" });
  const extras = make("div", { class: "extras" }, ...drawExtras(data));
  const node = make("div", { class: `row${data.slice_of ? " slice" : ""}${off ? " off" : ""}` },
    make("label", { class: "pick" }, box, make("span", { class: "name" }, data.name)),
    make("span", { class: "size", title: "Parameters of all its modules" }, data.size ?? ""),
    choice, make("div", { class: "line" }, note, more), extras);
  rows.set(data.name, { data, node, box, choice, note, more, extras });
  return node;
}

/** @param {ModuleRow} data */
function drawChoice(data) {
  return make("div", { class: "choice", role: "radiogroup", "aria-label": `How ${data.name} is trained` },
    .../** @type {Treatment[]} */ (Object.keys(TREATED)).map((treatment) => {
      const able = data.treatments.includes(treatment);
      const radio = make("input", { type: "radio", name: `treatment-${data.name}`, value: treatment, disabled: !able,
        onchange: () => toggle(data.name, true, treatment) });
      return make("label", { title: able ? null : data.reason }, radio, make("span", {}, TREATED[treatment]));
    }));
}

/** @param {ModuleRow} data */
function drawExtras(data) {
  const titles = { r: "r", lora_alpha: "alpha", lr: "lr", layers: "layers" };
  return OWN.filter((key) => key !== "layers" || data.layered).map((key) => {
    const input = make("input", { type: "text", inputmode: key === "layers" ? "text" : "decimal", "data-key": key,
      autocomplete: "off", placeholder: key === "layers" ? "all, or 0-15, last 8" : "shared",
      onchange: () => adjust(data.name, key, input.value) });
    return make("label", key === "lr" ? { title: "Learning rate" } : {}, titles[key], input);
  });
}

// ---- painting: after every tick and match report

function paint() {
  if (map.state !== "ready") return;
  paintMissing();
  for (const row of rows.values()) paintRow(row);
  for (const group of map.groups ?? []) {
    const place = root.querySelector(`[data-group="${group.key}"] .count`);
    const ticked = group.rows.filter((row) => ticks.has(row.name)).length;
    if (place) place.textContent = ticked ? `${ticked} ticked` : "";
  }
  presets.paint(ticks);
  paintPicture(ticks, receipts);
}

/** @param {Row} row */
function paintRow({ data, node, box, choice, note, more, extras }) {
  const tick = ticks.get(data.name);
  const receipt = tick && receipts[data.name];
  box.checked = Boolean(tick);
  node.classList.toggle("ticked", Boolean(tick));
  for (const radio of choice.querySelectorAll("input")) radio.checked = tick?.treatment === radio.value;
  note.textContent = note.title = receipt ? receipt.note : data.note;
  node.classList.toggle("bad", Boolean(receipt && !receipt.ok));
  const expanded = Boolean(tick) && open.has(data.name);
  more.hidden = !tick || Boolean(data.missing);
  more.setAttribute("aria-expanded", String(expanded));
  more.classList.toggle("changed", Boolean(tick && OWN.some((key) => tick[key])));
  extras.hidden = !expanded;
  for (const label of extras.querySelectorAll("label")) {
    const input = find(label, "input", "input");
    const key = /** @type {typeof OWN[number]} */ (input.dataset.key);
    label.hidden = ["r", "lora_alpha"].includes(key) && tick?.treatment === "full";
    if (document.activeElement !== input) input.value = typed(tick?.[key]);
  }
}

// a preset's names that this model lacks keep their rows, with the match report that says so
function paintMissing() {
  const place = find(root, ".missing");
  for (const [name, row] of rows)
    if (row.data.missing && !ticks.has(name)) {
      row.node.remove();
      rows.delete(name);
    }
  for (const name of ticks.keys())
    if (!rows.has(name))
      find(place, ".rows").append(
        drawRow({ name, treatments: ["lora", "full"], first: "lora", note: "matches nothing", missing: true }));
  place.hidden = place.querySelectorAll(".row").length === 0;
}

function readTicks() {
  const list = read(props.value, /** @type {Tick[]} */ ([]));
  ticks = new Map((Array.isArray(list) ? list : []).map((item) => [item.name, item]));
}

function readMap() {
  map = read(props.map, map);
  presets.draw(map.presets ?? [], map.own ?? [], map.problem ?? "");
  open = new Set();
  readTicks();
  draw();
}

wide.addEventListener("change", () => showPicture(wantsPicture()));
watch("value", () => { readTicks(); paint(); });
watch("map", readMap);
watch("presets", () => {
  const saved = read(props.presets, /** @type {{ own?: PresetGroup[] }} */ ({}));
  if (saved.own) presets.draw(map.presets ?? [], saved.own, "");
  presets.paint(ticks);
});
watch("receipts", () => { receipts = read(props.receipts, {}); paint(); });
receipts = read(props.receipts, {});
readMap();
