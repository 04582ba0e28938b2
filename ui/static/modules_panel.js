// Draws the modules panel inside a gr.HTML component. `element`, `props` and `watch` come from it.
// props.value: the ticks as JSON, the only place of the selection; the two other props are read only.
// Their names are not quoted below: gr.HTML takes quoted names in a script for events of its own.
const [MAP, RECEIPTS] = Object.keys({ map: 0, receipts: 0 });
const TITLES = { lora: "LoRA", full: "Full" };
const OWN = Object.keys({ r: 0, lora_alpha: 0, lr: 0, layers: 0 }); // what a tick may set for its kind alone
const root = element.querySelector(".modules");
const head = element.querySelector(".fact");
const frame = element.querySelector(".picture");

let map = {};
let rows = new Map();
let ticks = new Map();
let receipts = {};
let open = new Set();

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

function read(json, fallback) {
  try {
    return JSON.parse(json) ?? fallback;
  } catch {
    return fallback;
  }
}

// in the order of the rows, whatever was ticked first
function save() {
  const places = [...rows.keys()];
  const place = (tick) => (places.includes(tick.name) ? places.indexOf(tick.name) : places.length);
  const list = [...ticks.values()].sort((first, second) => place(first) - place(second));
  props.value = JSON.stringify(list);
  paint();
}

// ---- what a person does

function setTick(name, treatment) {
  const layers = ticks.get(name)?.layers; // rank, alpha and learning rate of one treatment do not fit the other
  ticks.set(name, { name, treatment, ...(layers && { layers }) });
  const row = rows.get(name)?.data;
  if (!row) return;
  // a fused module and its slices are two ways to the same weights: the newer tick stays
  for (const other of rows.values())
    if (other.data.slice_of === name || other.data.name === row.slice_of) ticks.delete(other.data.name);
}

function toggle(name, on, treatment) {
  if (on) setTick(name, treatment);
  else ticks.delete(name);
  save();
}

function setGroup(group, on) {
  for (const row of group.rows) ticks.delete(row.name);
  if (on)
    for (const row of group.rows)
      if (row.first && !row.slice_of && row.size !== "tied") setTick(row.name, row.first);
  save();
}

function setPreset(key) {
  const preset = map.presets.find((item) => item.key === key);
  if (!preset) return;
  ticks = new Map(preset.ticks.map((tick) => [tick.name, { ...tick }]));
  save();
}

function adjust(name, key, value) {
  const tick = { ...ticks.get(name) };
  const text = value.trim();
  if (key === "layers" && receipts[name]) delete receipts[name].layers;
  if (text === "") delete tick[key];
  else tick[key] = key === "layers" || isNaN(Number(text)) ? text : Number(text);
  ticks.set(name, tick);
  save();
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
  root.append(drawPresets(), ...map.groups.map(drawGroup));
  const missing = make("fieldset", { class: "group missing" },
    make("legend", {}, make("span", { class: "title" }, "Not in this model")), make("div", { class: "rows" }));
  root.insertBefore(missing, root.querySelector(".other"));
  drawPicture(frame, map.picture);
  paint();
}

function drawHead() {
  const toggle = make("button", { type: "button", id: "picture-toggle", "aria-controls": "block-picture",
    onclick: () => { keepPicture(frame.hidden); showPicture(frame.hidden); } }, "Picture");
  head.append(make("span", {}, map.fact), toggle);
}

function showPicture(open) {
  frame.hidden = !open;
  head.querySelector("#picture-toggle")?.setAttribute("aria-expanded", String(open));
  if (open) requestAnimationFrame(drawFlow);
}

function drawPresets() {
  const select = make("select", { id: "preset", onchange: (event) => setPreset(event.target.value) },
    make("option", { value: "", disabled: true, hidden: true }, "Your own choice"),
    ...map.presets.map((item) => make("option", { value: item.key }, item.title)));
  return make("div", { class: "presets" },
    make("label", { for: "preset" }, "Preset"), select, make("p", { class: "note", "aria-live": "polite" }));
}

function drawGroup(group) {
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

function drawRow(data) {
  const off = data.treatments.length === 0;
  const box = make("input", { type: "checkbox", disabled: off, "data-name": data.name,
    onchange: (event) => toggle(data.name, event.target.checked, data.first) });
  const more = make("button", { type: "button", class: "link more", "aria-expanded": "false",
    "aria-label": `Rank, alpha, learning rate and layers of ${data.name}`,
    title: "Rank, alpha, learning rate and layers of this kind alone",
    onclick: () => { open.has(data.name) ? open.delete(data.name) : open.add(data.name); paint(); } }, "adjust");
  const row = {
    data, box, more,
    choice: drawChoice(data),
    note: make("div", { class: "note" }),
    extras: make("div", { class: "extras" }, ...drawExtras(data)),
  };
  row.node = make("div", { class: `row${data.slice_of ? " slice" : ""}${off ? " off" : ""}` },
    make("label", { class: "pick" }, box, make("span", { class: "name" }, data.name)),
    make("span", { class: "size", title: "Parameters of all its modules" }, data.size ?? ""),
    row.choice, make("div", { class: "line" }, row.note, more), row.extras);
  rows.set(data.name, row);
  return row.node;
}

function drawChoice(data) {
  return make("div", { class: "choice", role: "radiogroup", "aria-label": `How ${data.name} is trained` },
    ...Object.keys(TITLES).map((treatment) => {
      const able = data.treatments.includes(treatment);
      const radio = make("input", { type: "radio", name: `treatment-${data.name}`, value: treatment, disabled: !able,
        onchange: () => toggle(data.name, true, treatment) });
      return make("label", { title: able ? null : data.reason }, radio, make("span", {}, TITLES[treatment]));
    }));
}

function drawExtras(data) {
  const fields = [["r", "r"], ["lora_alpha", "alpha"], ["lr", "lr"], ...(data.layered ? [["layers", "layers"]] : [])];
  return fields.map(([key, title]) =>
    make("label", key === "lr" ? { title: "Learning rate" } : {}, title,
      make("input", { type: "text", inputmode: key === "layers" ? "text" : "decimal", "data-key": key, autocomplete: "off",
        placeholder: key === "layers" ? "all, or 0-15, last 8" : "shared",
        onchange: (event) => adjust(data.name, key, event.target.value) })));
}

// ---- painting: after every tick, every receipt

function paint() {
  if (map.state !== "ready") return;
  paintMissing();
  for (const row of rows.values()) paintRow(row);
  for (const group of map.groups) {
    const place = root.querySelector(`[data-group="${group.key}"] .count`);
    const ticked = group.rows.filter((row) => ticks.has(row.name)).length;
    if (place) place.textContent = ticked ? `${ticked} ticked` : "";
  }
  paintPreset();
  paintPicture();
}

function paintRow({ data, node, box, choice, note, more, extras }) {
  const tick = ticks.get(data.name);
  const receipt = tick && receipts[data.name];
  box.checked = Boolean(tick);
  node.classList.toggle("ticked", Boolean(tick));
  for (const radio of choice.querySelectorAll("input")) {
    radio.checked = tick?.treatment === radio.value;
  }
  note.textContent = receipt ? receipt.note : data.note;
  note.title = note.textContent;
  node.classList.toggle("bad", Boolean(receipt && !receipt.ok));
  const expanded = Boolean(tick) && open.has(data.name);
  more.hidden = !tick || data.missing;
  more.setAttribute("aria-expanded", String(expanded));
  more.classList.toggle("changed", Boolean(tick && OWN.some((key) => tick[key])));
  extras.hidden = !expanded;
  for (const input of extras.querySelectorAll("input")) {
    input.parentElement.hidden = ["r", "lora_alpha"].includes(input.dataset.key) && tick?.treatment === "full";
    if (document.activeElement !== input) input.value = shown(tick?.[input.dataset.key]);
  }
}

// a number as it is typed: 0.0002 is 2e-4
function shown(value) {
  if (typeof value !== typeof 0) return value ?? "";
  return value.toExponential().length < String(value).length ? value.toExponential() : value;
}

// names of a preset that this model lacks keep their rows, with the receipt that says so
function paintMissing() {
  const place = root.querySelector(".missing");
  for (const [name, row] of rows)
    if (row.data.missing && !ticks.has(name)) {
      row.node.remove();
      rows.delete(name);
    }
  for (const name of ticks.keys())
    if (!rows.has(name))
      place.querySelector(".rows").append(
        drawRow({ name, treatments: ["lora", "full"], first: "lora", note: "matches nothing", missing: true }));
  place.hidden = place.querySelectorAll(".row").length === 0;
}

function paintPreset() {
  const same = (preset) =>
    preset.ticks.length === ticks.size &&
    preset.ticks.every((tick) => {
      const own = ticks.get(tick.name);
      return own && own.treatment === tick.treatment && !OWN.some((key) => own[key]);
    });
  const preset = map.presets.find(same);
  root.querySelector("#preset").value = preset ? preset.key : "";
  root.querySelector(".presets .note").textContent = preset ? preset.note : "Ticks of your own. A preset replaces them.";
}

function readTicks() {
  const list = read(props.value, []);
  ticks = new Map((Array.isArray(list) ? list : []).map((tick) => [tick.name, tick]));
}

function readMap() {
  map = read(props[MAP], {});
  open = new Set();
}

watch("value", () => { readTicks(); paint(); });
watch(MAP, () => { readMap(); readTicks(); draw(); });
watch(RECEIPTS, () => { receipts = read(props[RECEIPTS], {}); paint(); });
readMap();
readTicks();
receipts = read(props[RECEIPTS], {});
draw();
