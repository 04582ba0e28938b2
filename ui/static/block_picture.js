// The picture of the model's block beside the ticks. `modules_panel.js` follows this text in one script: it
// calls drawPicture for every map and paintPicture after every tick; `make`, `ticks`, `receipts` are its own.
const PICTURE_KEY = "lab-picture";
const TREATED = { lora: "LoRA", full: "Full" };
const SVG = "http://www.w3.org/2000/svg";
const SIGNS = { add: "+", mix: "⋯" };
const picture = { sections: [], units: [], boxes: new Map(), spoken: [], tied: {} };

// ---- drawing: once for every map

function drawPicture(place, sections) {
  Object.assign(picture, { sections: sections ?? [], units: [], boxes: new Map(), spoken: [], tied: {} });
  const spoken = make("ol", { class: "spoken", id: "picture-text" });
  const drawn = make("div", { class: "drawn", role: "img", "aria-label": "Picture of the model's blocks", "aria-describedby": "picture-text" },
    ...picture.sections.map(drawSection));
  for (const section of picture.sections)
    for (const pattern of section.patterns) spoken.append(speakPattern(section, pattern));
  const key = make("p", { class: "key", "aria-hidden": "true" },
    ...Object.entries(TREATED).map(([name, title]) => make("span", { class: `unit ${name}` }, title)), make("span", { class: "unit" }, "frozen"));
  place.replaceChildren(key, drawn, spoken);
  new ResizeObserver(() => requestAnimationFrame(drawFlow)).observe(drawn);
}

function drawSection(section) {
  const patterns = section.patterns.map((pattern) => drawPattern(section, pattern));
  if (!section.stack) return make("div", { class: `section${section.follows ? " follows" : ""}` }, ...patterns);
  const times = section.count === 1 ? "1 layer" : `× ${section.count} layers`;
  return make("div", { class: `section stack${section.follows ? " follows" : ""}` },
    make("div", { class: "frame-title" }, make("span", { class: "real" }, ...breakable(section.stack)), make("b", {}, times)),
    ...patterns);
}

function drawPattern(section, pattern) {
  const boxes = pattern.parts.map((part) => drawPart(section, pattern, part));
  const node = make("div", { class: `pattern${pattern.measured ? "" : " unmeasured"}`, style: pattern.lanes ? `padding-left:${12 + 4 * pattern.lanes}px` : null },
    section.patterns.length > 1
      ? make("div", { class: "which" }, `${pattern.layers.length === 1 ? "layer" : "layers"} ${pattern.title}`,
          pattern.layers.length > 1 ? make("b", {}, `× ${pattern.layers.length}`) : null)
      : null,
    pattern.note ? make("p", { class: "why" }, pattern.note) : null,
    ...pattern.rows.map((row) => make("div", { class: "rank" }, ...row.map((number) => boxes[number]))),
    pattern.aside.length ? make("div", { class: "aside" }, "also in here: ", ...pattern.aside.map((unit) => drawUnit(section, pattern, unit))) : null);
  picture.boxes.set(node, { pattern, boxes, section });
  return node;
}

function drawPart(section, pattern, part) {
  if (SIGNS[part.role]) return make("div", { class: `join ${part.role}`, title: part.says }, SIGNS[part.role]);
  const single = part.rows.length === 1 && part.rows[0].length === 1 && part.rows[0][0].length === 1 && !part.loose.length && !part.name;
  const units = (row) =>
    make("div", { class: "line-up" }, ...row.map((cell) => {
      const inner = cell.map((unit) => drawUnit(section, pattern, unit));
      return inner.length > 1 ? make("div", { class: "cell" }, make("span", { class: "cell-title" }, cell[0].holder), ...inner) : inner[0];
    }));
  return make("div", { class: `box ${part.role}${single ? " single" : ""}` },
    single ? null : make("div", { class: "box-title" }, make("b", {}, part.title), part.name ? make("span", { class: "real" }, ...breakable(part.name)) : null),
    ...part.rows.map(units),
    part.loose.length ? make("div", { class: "line-up loose" }, ...part.loose.map((unit) => drawUnit(section, pattern, unit))) : null,
    part.outside ? make("div", { class: "why" }, part.says) : null);
}

function drawUnit(section, pattern, unit) {
  const chip = make("span", { class: "chip" });
  const slices = unit.slices.map((slice) => {
    const mark = make("span", { class: "chip" });
    const node = make("span", { class: "slice", "data-unit": slice.name, style: `flex-grow:${slice.share}`, onclick: (event) => show(event, slice.name) },
      make("span", { class: "real" }, ...breakable(slice.label)), mark);
    picture.units.push({ name: slice.name, fused: unit.name, node, chip: mark, pattern, unit: slice });
    return node;
  });
  const detail = [unit.times ? `${unit.times} ×` : "", unit.shape, unit.tied ? `tied to ${unit.tied}` : ""].filter(Boolean).join(" ");
  const node = make("div", { class: `unit${unit.tied ? " tied" : ""}`, "data-unit": unit.name, style: `flex-basis:${roomFor(unit)}px`, onclick: (event) => show(event, unit.name) },
    make("span", { class: "real" }, ...breakable(unit.name)), chip,
    detail ? make("span", { class: "shape" }, detail) : null,
    slices.length ? make("span", { class: "slices" }, ...slices) : null);
  if (unit.tied) picture.tied[unit.name] = unit.tied;
  picture.units.push({ name: unit.name, node, chip, pattern, unit });
  return node;
}

// what a name, and slices side by side, take before they share a line with others
const roomFor = (unit) => Math.min(150, Math.max(unit.slices.length ? 140 : 62, 10 + 6.6 * unit.name.length));

// long names may break behind their dots and underscores
function breakable(name) {
  return name.split(/(?<=[._])/).flatMap((piece, index) => (index ? [document.createElement("wbr"), piece] : [piece]));
}

// ---- lines of the flow, over the boxes wherever these came to lie

function drawFlow() {
  for (const [node, { section, pattern, boxes }] of picture.boxes) {
    node.querySelector(":scope > svg")?.remove();
    if (!pattern.measured || !node.clientWidth) continue;
    const base = node.getBoundingClientRect();
    const at = (box) => {
      const { left, right, top, bottom } = box.getBoundingClientRect();
      return { left: left - base.left, right: right - base.left, top: top - base.top, bottom: bottom - base.top, x: (left + right) / 2 - base.left, y: (top + bottom) / 2 - base.top };
    };
    const rank = new Map(pattern.rows.flatMap((row, index) => row.map((number) => [number, index])));
    const places = boxes.map((box) => (box.isConnected ? at(box) : null));
    const start = Math.min(...pattern.rows[0].map((number) => places[number].top)) - 14;
    const middle = (node.querySelector(".rank") ? at(node.querySelector(".rank")) : at(node)).x;
    const input = { x: middle, left: 0, right: base.width, bottom: start, top: start, y: start };
    const edges = [];
    for (const [number, row] of rank)
      for (const take of pattern.parts[number].takes) {
        if (take < 0 && row === 0 && !section.stack) continue; // the line between the sections leads to it
        edges.push({ from: take < 0 ? input : places[take], to: places[number], join: SIGNS[pattern.parts[number].role], skip: row - (take < 0 ? -1 : rank.get(take)) > 1, rows: [take < 0 ? -1 : rank.get(take), row] });
      }
    const last = Math.max(...rank.values());
    if (pattern.gives >= 0 && (pattern.layers.length || rank.get(pattern.gives) < last)) {
      const bottom = Math.max(...pattern.rows[last].map((number) => places[number].bottom)) + 12;
      const out = { x: middle, left: middle - 1, right: middle + 1, top: bottom, y: bottom, bottom };
      edges.push({ from: places[pattern.gives], to: out, out: true, skip: rank.get(pattern.gives) < last, rows: [rank.get(pattern.gives), last + 1] });
    }
    node.append(linesOf(edges, base, pattern.lanes));
  }
}

function linesOf(edges, base, room) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("width", base.width);
  svg.setAttribute("height", base.height);
  svg.setAttribute("aria-hidden", "true");
  const lanes = []; // at the left side: the row down to which each one is taken
  const draw = (d, tip) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    svg.append(path);
    if (!tip) return;
    const [x, y, dx, dy] = tip;
    const head = document.createElementNS(SVG, "path");
    head.setAttribute("class", "head");
    head.setAttribute("d", dy ? `M${x} ${y}l-3.5 -5h7z` : `M${x} ${y}l${-5 * dx} -3.5v7z`);
    svg.append(head);
  };
  for (const edge of edges.filter((edge) => edge.skip).sort((first, second) => first.rows[0] - second.rows[0] || first.rows[1] - second.rows[1])) {
    let lane = lanes.findIndex((until) => until <= edge.rows[0]);
    if (lane < 0) lane = lanes.push(0) - 1;
    lanes[lane] = edge.rows[1];
    const { from, to } = edge;
    const x = 5 + 4 * Math.max(room - lane, 0);
    const y = from.bottom + 4;
    const end = edge.out ? to.top - 4 : to.y;
    draw(`M${from.x} ${from.bottom}V${y}H${x + 5}q-5 0 -5 5V${end - 5}q0 5 5 5H${edge.out ? to.x : to.left - 1}`, edge.out ? null : [to.left - 1, end, 1, 0]);
  }
  for (const { from, to, join, out } of edges.filter((edge) => !edge.skip)) {
    const within = (x, box) => x > box.left + 4 && x < box.right - 4;
    if (join && !within(from.x, to)) {
      const side = from.x < to.x ? 1 : -1;
      draw(`M${from.x} ${from.bottom}V${to.y}H${side > 0 ? to.left - 1 : to.right + 1}`, [side > 0 ? to.left - 1 : to.right + 1, to.y, side, 0]);
    } else if (within(to.x, from) || within(from.x, to)) {
      const x = within(to.x, from) ? to.x : from.x;
      draw(`M${x} ${from.bottom}V${to.top - (out ? 0 : 2)}`, out ? null : [x, to.top, 0, 1]);
    } else {
      const y = (from.bottom + to.top) / 2 - 1;
      draw(`M${from.x} ${from.bottom}V${y}H${to.x}V${to.top - 2}`, [to.x, to.top, 0, 1]);
    }
  }
  return svg;
}

// ---- painting: after every tick, every receipt

function paintPicture() {
  for (const item of picture.units) {
    const state = stateOf(item);
    item.node.classList.toggle("lora", state.treatment === "lora");
    item.node.classList.toggle("full", state.treatment === "full");
    item.node.classList.toggle("bad", Boolean(state.bad));
    item.chip.textContent = state.chip;
    item.node.title = `${item.name}: ${state.words}`;
  }
  requestAnimationFrame(drawFlow);
  for (const item of picture.spoken) item.node.textContent = sayUnit(item);
}

// what is trained of a unit in the layers of its pattern: {treatment, chip, words}
function stateOf({ name, fused, pattern }) {
  const source = sourceOf(name, fused);
  const tick = ticks.get(source);
  if (!tick) return { chip: "", words: "frozen" };
  const receipt = receipts[source];
  if (receipt && !receipt.ok) return { bad: true, chip: "not trained", words: `frozen: ${receipt.note}` };
  const title = TREATED[tick.treatment];
  const asked = tick.layers ? String(tick.layers) : "";
  if (!pattern.layers.length || !asked) return { treatment: tick.treatment, chip: title, words: title };
  if (receipt?.layers === null) return { treatment: tick.treatment, chip: title, words: title };
  if (!receipt?.layers) return { treatment: tick.treatment, chip: `${title} ${asked}`, words: `${title} in layers ${asked}` };
  const count = pattern.layers.filter((layer) => receipt.layers.includes(layer)).length;
  if (!count) return { chip: "", words: `frozen here: ${title} in layers ${asked}` };
  const part = count === pattern.layers.length ? title : `${title} ${asked}`;
  return { treatment: tick.treatment, chip: part, words: count === pattern.layers.length ? title : `${title} in ${count} of these ${pattern.layers.length} layers: ${asked}` };
}

// the tick that decides: its own, its fused module's, or full training of the weight that it is tied to
function sourceOf(name, fused) {
  if (ticks.has(name)) return name;
  if (fused && ticks.has(fused)) return fused;
  const full = (other) => other && ticks.get(other)?.treatment === "full";
  if (full(picture.tied[name])) return picture.tied[name];
  return Object.keys(picture.tied).find((other) => picture.tied[other] === name && full(other)) ?? name;
}

// ---- the same in words, for those who listen

function speakPattern(section, pattern) {
  const where = section.stack
    ? `${pattern.layers.length === 1 ? "Layer" : "Layers"} ${pattern.title} of ${section.stack}, ${pattern.layers.length} of ${section.count}`
    : "Outside the layers";
  const items = pattern.parts.map((part) => {
    const units = [...part.rows.flat(2), ...part.loose].flatMap((unit) => [unit, ...unit.slices.map((slice) => ({ ...slice, fused: unit.name }))]);
    const spans = units.map((unit) => {
      const node = make("li");
      picture.spoken.push({ node, name: unit.name, fused: unit.fused, pattern, unit });
      return node;
    });
    const title = [part.title, part.name].filter(Boolean).join(" ");
    return make("li", {}, [title, part.says].filter(Boolean).join(", ") || null, spans.length ? make("ul", {}, ...spans) : null);
  });
  return make("li", {}, [where, pattern.note].filter(Boolean).join(". "), make("ol", {}, ...items));
}

function sayUnit(item) {
  const part = item.fused ? `part of ${item.fused}` : item.unit.shape;
  const tied = item.unit.tied ? `tied to ${item.unit.tied}` : "";
  return `${[item.name, part, tied].filter(Boolean).join(", ")}: ${stateOf(item).words}`;
}

// ---- a click leads to the row with the tick

function show(event, name) {
  event.stopPropagation();
  const row = rows.get(name);
  if (!row) return;
  row.node.closest("details")?.setAttribute("open", "");
  row.node.scrollIntoView({ block: "center" });
  (row.box.disabled ? row.node : row.box).focus({ preventScroll: true });
  row.node.classList.remove("found");
  requestAnimationFrame(() => row.node.classList.add("found"));
}

function wantsPicture() {
  try {
    return (localStorage.getItem(PICTURE_KEY) ?? (innerWidth >= 1400 ? "open" : "")) === "open";
  } catch {
    return innerWidth >= 1400;
  }
}

function keepPicture(open) {
  try {
    localStorage.setItem(PICTURE_KEY, open ? "open" : "closed");
  } catch {
    // a browser that keeps nothing forgets it with the page
  }
}
