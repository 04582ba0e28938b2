// The picture of the model's blocks next to the ticks: drawn for every map, painted after every tick.
import { make } from "./lib.js";
import { edgesOf, linesOf, pieces, SIGNS, stateOf, TREATED, widthOf } from "./picture_layout.js";

/** @typedef {import("./picture_layout.js").Training} Training */
/** @typedef {{ name: string, fused?: string, pattern: Pattern, unit: Unit | Slice }} Item a unit or a slice of one */
/** @typedef {Item & { node: HTMLElement, chip: HTMLElement }} Drawn */

const SVG = "http://www.w3.org/2000/svg";
const picture = {
  /** @type {Drawn[]} */
  units: [],
  /** @type {(Item & { node: HTMLElement })[]} */
  spoken: [],
  /** @type {Map<HTMLElement, { section: Section, pattern: Pattern, boxes: HTMLElement[] }>} */
  patterns: new Map(),
  /** @type {Record<string, string>} */
  tied: {},
  /** @type {(name: string) => void} shows the row with the tick */
  show: () => {},
};

// ---- drawing: once for every map

/**
 * @param {HTMLElement} place
 * @param {Section[]} sections
 * @param {(name: string) => void} show called when a unit is clicked
 */
export function drawPicture(place, sections, show) {
  Object.assign(picture, { units: [], spoken: [], patterns: new Map(), tied: {}, show });
  const drawn = make("div", { class: "drawn", role: "img", "aria-label": "Picture of the model's blocks", "aria-describedby": "picture-text" },
    ...sections.map(drawSection));
  const spoken = make("ol", { class: "spoken", id: "picture-text" },
    ...sections.flatMap((section) => section.patterns.map((pattern) => speakPattern(section, pattern))));
  const key = make("p", { class: "key", "aria-hidden": "true" },
    ...Object.entries(TREATED).map(([name, title]) => make("span", { class: `unit ${name}` }, title)), make("span", { class: "unit" }, "frozen"));
  place.replaceChildren(key, drawn, spoken);
  new ResizeObserver(() => requestAnimationFrame(drawFlow)).observe(drawn);
}

/** @param {Section} section */
function drawSection(section) {
  const patterns = section.patterns.map((pattern) => drawPattern(section, pattern));
  const kind = `section${section.stack ? " stack" : ""}${section.follows ? " follows" : ""}`;
  if (!section.stack) return make("div", { class: kind }, ...patterns);
  const times = section.count === 1 ? "1 layer" : `× ${section.count} layers`;
  return make("div", { class: kind },
    make("div", { class: "frame-title" }, realName(section.stack), make("b", {}, times)), ...patterns);
}

/**
 * @param {Section} section
 * @param {Pattern} pattern
 */
function drawPattern(section, pattern) {
  const boxes = pattern.parts.map((part) => drawPart(pattern, part));
  const style = pattern.lanes ? `padding-left:${12 + 4 * pattern.lanes}px` : null;
  const node = make("div", { class: `pattern${pattern.measured ? "" : " unmeasured"}`, style },
    section.patterns.length > 1
      ? make("div", { class: "which" }, `${pattern.layers.length === 1 ? "layer" : "layers"} ${pattern.title}`,
          pattern.layers.length > 1 ? make("b", {}, `× ${pattern.layers.length}`) : null)
      : null,
    pattern.note ? make("p", { class: "why" }, pattern.note) : null,
    ...pattern.rows.map((row) => make("div", { class: "rank" }, ...row.map((number) => boxes[number]))),
    pattern.aside.length ? make("div", { class: "aside" }, "also here: ", ...pattern.aside.map((unit) => drawUnit(pattern, unit))) : null);
  picture.patterns.set(node, { section, pattern, boxes });
  return node;
}

/**
 * @param {Pattern} pattern
 * @param {Part} part
 */
function drawPart(pattern, part) {
  if (SIGNS[part.role]) return make("div", { class: `join ${part.role}`, title: part.says }, SIGNS[part.role]);
  const single = part.rows.flat(2).length === 1 && !part.loose.length && !part.name;
  /** @param {Unit} unit */
  const draw = (unit) => drawUnit(pattern, unit);
  /** @param {Unit[]} cell */
  const drawCell = (cell) =>
    cell.length > 1 ? make("div", { class: "cell" }, make("span", { class: "cell-title" }, cell[0].holder), ...cell.map(draw)) : draw(cell[0]);
  return make("div", { class: `box ${part.role}${single ? " single" : ""}` },
    single ? null : make("div", { class: "box-title" }, make("b", {}, part.title), part.name ? realName(part.name) : null),
    ...part.rows.map((row) => make("div", { class: "line-up" }, ...row.map(drawCell))),
    part.loose.length ? make("div", { class: "line-up loose" }, ...part.loose.map(draw)) : null,
    part.outside ? make("div", { class: "why" }, part.says) : null);
}

/**
 * @param {Pattern} pattern
 * @param {Unit} unit
 */
function drawUnit(pattern, unit) {
  /** @param {string} name */
  const onclick = (name) => (/** @type {Event} */ event) => {
    event.stopPropagation();
    picture.show(name);
  };
  const chip = make("span", { class: "chip" });
  const slices = unit.slices.map((slice) => {
    const mark = make("span", { class: "chip" });
    const node = make("span", { class: "slice", "data-unit": slice.name, style: `flex-grow:${slice.share}`, onclick: onclick(slice.name) },
      realName(slice.label), mark);
    picture.units.push({ name: slice.name, fused: unit.name, node, chip: mark, pattern, unit: slice });
    return node;
  });
  const detail = [unit.times ? `${unit.times} ×` : "", unit.shape, unit.tied ? `tied to ${unit.tied}` : ""].filter(Boolean).join(" ");
  const node = make("div", { class: `unit${unit.tied ? " tied" : ""}`, "data-unit": unit.name, style: `flex-basis:${widthOf(unit)}px`, onclick: onclick(unit.name) },
    realName(unit.name), chip,
    detail ? make("span", { class: "shape" }, detail) : null,
    slices.length ? make("span", { class: "slices" }, ...slices) : null);
  if (unit.tied) picture.tied[unit.name] = unit.tied;
  picture.units.push({ name: unit.name, node, chip, pattern, unit });
  return node;
}

/** @param {string} name the module's name, which may wrap between its parts */
function realName(name) {
  return make("span", { class: "real" }, ...pieces(name).flatMap((piece, index) => (index ? [make("wbr"), piece] : [piece])));
}

// ---- lines of the data flow, drawn over the boxes

export function drawFlow() {
  for (const [node, { section, pattern, boxes }] of picture.patterns) {
    node.querySelector(":scope > svg")?.remove();
    if (!pattern.measured || !node.clientWidth) continue;
    const base = node.getBoundingClientRect();
    /** @param {Element} box */
    const at = (box) => {
      const { left, right, top, bottom } = box.getBoundingClientRect();
      return { left: left - base.left, right: right - base.left, top: top - base.top, bottom: bottom - base.top, x: (left + right) / 2 - base.left, y: (top + bottom) / 2 - base.top };
    };
    const places = boxes.map((box) => (box.isConnected ? at(box) : null));
    const middle = at(node.querySelector(".rank") ?? node).x;
    const edges = edgesOf(pattern, places, { middle, width: base.width, isStack: Boolean(section.stack) });
    node.append(drawLines(linesOf(edges, pattern.lanes), base));
  }
}

/**
 * @param {import("./picture_layout.js").Line[]} lines
 * @param {DOMRect} base
 */
function drawLines(lines, base) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ width: base.width, height: base.height, "aria-hidden": true })) svg.setAttribute(key, String(value));
  for (const { d, tip } of lines) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    svg.append(path);
    if (!tip) continue;
    const [x, y, dx, dy] = tip;
    const head = document.createElementNS(SVG, "path");
    head.setAttribute("class", "head");
    head.setAttribute("d", dy ? `M${x} ${y}l-3.5 -5h7z` : `M${x} ${y}l${-5 * dx} -3.5v7z`);
    svg.append(head);
  }
  return svg;
}

// ---- painting: after every tick and match report

/**
 * @param {Training["ticks"]} ticks
 * @param {Training["receipts"]} receipts
 */
export function paintPicture(ticks, receipts) {
  const training = { ticks, receipts, tied: picture.tied };
  for (const item of picture.units) {
    const state = stateOf(item, training);
    item.node.classList.toggle("lora", state.treatment === "lora");
    item.node.classList.toggle("full", state.treatment === "full");
    item.node.classList.toggle("bad", Boolean(state.bad));
    item.chip.textContent = state.chip;
    item.node.title = `${item.name}: ${state.words}`;
  }
  requestAnimationFrame(drawFlow);
  for (const item of picture.spoken) item.node.textContent = sayUnit(item, training);
}

// ---- the same in words, for screen readers

/**
 * @param {Section} section
 * @param {Pattern} pattern
 */
function speakPattern(section, pattern) {
  const where = section.stack
    ? `${pattern.layers.length === 1 ? "Layer" : "Layers"} ${pattern.title} of ${section.stack}, ${pattern.layers.length} of ${section.count}`
    : "Outside the layers";
  const items = pattern.parts.map((part) => {
    const nodes = [...part.rows.flat(2), ...part.loose].flatMap((unit) => [
      speakUnit({ name: unit.name, pattern, unit }),
      ...unit.slices.map((slice) => speakUnit({ name: slice.name, fused: unit.name, pattern, unit: slice })),
    ]);
    const title = [part.title, part.name].filter(Boolean).join(" ");
    return make("li", {}, [title, part.says].filter(Boolean).join(", ") || null, nodes.length ? make("ul", {}, ...nodes) : null);
  });
  return make("li", {}, [where, pattern.note].filter(Boolean).join(". "), make("ol", {}, ...items));
}

/** @param {Item} item */
function speakUnit(item) {
  const node = make("li");
  picture.spoken.push({ ...item, node });
  return node;
}

/**
 * @param {Item} item
 * @param {Training} training
 */
function sayUnit(item, training) {
  const part = item.fused ? `part of ${item.fused}` : item.unit.shape;
  const tied = item.unit.tied ? `tied to ${item.unit.tied}` : "";
  return `${[item.name, part, tied].filter(Boolean).join(", ")}: ${stateOf(item, training).words}`;
}
