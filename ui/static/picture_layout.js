// The DOM-free part of the block picture: what is trained of a unit, and the lines between boxes.

/** @type {Record<Treatment, string>} */
export const TREATED = { lora: "LoRA", full: "Full" };
/** @type {Record<string, string>} */
export const SIGNS = { add: "+", mix: "⋯" };

/** @typedef {{ left: number, right: number, top: number, bottom: number, x: number, y: number }} Box `x`, `y`: center */
/** @typedef {{ from: Box, to: Box, rows: [number, number], skip: boolean, join?: boolean, out?: boolean }} Edge
 * `skip`: it passes other boxes; `join`: it ends at a sign; `out`: it leaves the block */
/** @typedef {{ d: string, tip: [number, number, number, number] | null }} Line SVG path; x, y, dx, dy of its arrowhead */

// ---- sizes

/**
 * Pixels that a name, or slices side by side, need to share a line with others.
 * @param {Unit} unit
 */
export const widthOf = (unit) => Math.min(150, Math.max(unit.slices.length ? 140 : 62, 10 + 6.6 * unit.name.length));

/**
 * A long name in pieces: it may wrap after dots and underscores.
 * @param {string} name
 */
export const pieces = (name) => name.split(/(?<=[._])/);

// ---- lines of the data flow

/**
 * The lines of a pattern, between boxes at any position.
 * @param {Pattern} pattern
 * @param {(Box | null)[]} places of its parts
 * @param {{ middle: number, width: number, isStack: boolean }} frame `isStack`: the pattern is one of a stack's layers
 * @returns {Edge[]}
 */
export function edgesOf(pattern, places, { middle, width, isStack }) {
  /** @param {number} number */
  const place = (number) => /** @type {Box} */ (places[number]);
  const rank = new Map(pattern.rows.flatMap((row, index) => row.map((number) => [number, index])));
  rank.set(-1, -1); // the input
  const start = Math.min(...pattern.rows[0].map((number) => place(number).top)) - 14;
  const input = { x: middle, left: 0, right: width, bottom: start, top: start, y: start };
  /** @type {Edge[]} */
  const edges = [];
  for (const row of pattern.rows.flat())
    for (const take of pattern.parts[row].takes) {
      const [first, last] = [rank.get(take) ?? -1, rank.get(row) ?? 0];
      if (take < 0 && last === 0 && !isStack) continue; // the line between sections leads to it
      const from = take < 0 ? input : place(take);
      const join = pattern.parts[row].role in SIGNS;
      edges.push({ from, to: place(row), join, skip: last - first > 1, rows: [first, last] });
    }
  const last = pattern.rows.length - 1;
  const source = rank.get(pattern.gives) ?? last;
  if (pattern.gives >= 0 && (pattern.layers.length || source < last)) {
    const bottom = Math.max(...pattern.rows[last].map((number) => place(number).bottom)) + 12;
    const out = { x: middle, left: middle - 1, right: middle + 1, top: bottom, y: bottom, bottom };
    edges.push({ from: place(pattern.gives), to: out, out: true, skip: source < last, rows: [source, last + 1] });
  }
  return edges;
}

/**
 * @param {Edge[]} edges
 * @param {number} lanes that fit into the left margin
 * @returns {Line[]}
 */
export function linesOf(edges, lanes) {
  const passing = edges.filter((edge) => edge.skip);
  passing.sort((first, second) => first.rows[0] - second.rows[0] || first.rows[1] - second.rows[1]);
  /** @type {number[]} */
  const taken = []; // lane -> the row down to which it is occupied
  const around = passing.map((edge) => {
    let lane = taken.findIndex((until) => until <= edge.rows[0]);
    if (lane < 0) lane = taken.length;
    taken[lane] = edge.rows[1];
    return lineAround(edge, 5 + 4 * Math.max(lanes - lane, 0));
  });
  return [...around, ...edges.filter((edge) => !edge.skip).map(lineTo)];
}

/**
 * A line past other boxes, through the left margin.
 * @param {Edge} edge
 * @param {number} x of its lane
 * @returns {Line}
 */
function lineAround({ from, to, out }, x) {
  const y = from.bottom + 4;
  const end = out ? to.top - 4 : to.y;
  const d = `M${from.x} ${from.bottom}V${y}H${x + 5}q-5 0 -5 5V${end - 5}q0 5 5 5H${out ? to.x : to.left - 1}`;
  return { d, tip: out ? null : [to.left - 1, end, 1, 0] };
}

/**
 * A line to the next row.
 * @param {Edge} edge
 * @returns {Line}
 */
function lineTo({ from, to, join, out }) {
  /** @type {(x: number, box: Box) => boolean} */
  const within = (x, box) => x > box.left + 4 && x < box.right - 4;
  if (join && !within(from.x, to)) {
    const side = from.x < to.x ? 1 : -1;
    const end = side > 0 ? to.left - 1 : to.right + 1;
    return { d: `M${from.x} ${from.bottom}V${to.y}H${end}`, tip: [end, to.y, side, 0] };
  }
  if (within(to.x, from) || within(from.x, to)) {
    const x = within(to.x, from) ? to.x : from.x;
    return { d: `M${x} ${from.bottom}V${to.top - (out ? 0 : 2)}`, tip: out ? null : [x, to.top, 0, 1] };
  }
  const y = (from.bottom + to.top) / 2 - 1;
  return { d: `M${from.x} ${from.bottom}V${y}H${to.x}V${to.top - 2}`, tip: [to.x, to.top, 0, 1] };
}

// ---- what is trained

/** @typedef {{ ticks: Map<string, Tick>, receipts: Record<string, MatchReport>, tied: Record<string, string> }} Training
 * `tied`: name -> the name it is tied to */

/**
 * What is trained of a unit in the layers of its pattern.
 * @param {{ name: string, fused?: string, pattern: Pattern }} unit `fused`: the module that it is a slice of
 * @param {Training} training
 * @returns {{ treatment?: Treatment, bad?: boolean, chip: string, words: string }}
 */
export function stateOf({ name, fused, pattern }, training) {
  const source = sourceOf(name, fused, training);
  const tick = training.ticks.get(source);
  if (!tick) return { chip: "", words: "frozen" };
  const receipt = training.receipts[source];
  if (receipt && !receipt.ok) return { bad: true, chip: "not trained", words: `frozen: ${receipt.note}` };
  const { treatment } = tick;
  const title = TREATED[treatment];
  const asked = tick.layers ? String(tick.layers) : "";
  const total = pattern.layers.length;
  if (!total || !asked || receipt?.layers === null) return { treatment, chip: title, words: title };
  if (!receipt?.layers) return { treatment, chip: `${title} ${asked}`, words: `${title} in layers ${asked}` };
  const trained = new Set(receipt.layers);
  const count = pattern.layers.filter((layer) => trained.has(layer)).length;
  if (!count) return { chip: "", words: `frozen here: ${title} in layers ${asked}` };
  if (count === total) return { treatment, chip: title, words: title };
  return { treatment, chip: `${title} ${asked}`, words: `${title} in ${count} of these ${total} layers: ${asked}` };
}

/**
 * The name whose tick applies: its own, its fused module's, or that of a fully trained tied weight.
 * @param {string} name
 * @param {string | undefined} fused
 * @param {Training} training
 */
export function sourceOf(name, fused, { ticks, tied }) {
  if (ticks.has(name)) return name;
  if (fused && ticks.has(fused)) return fused;
  /** @param {string} other */
  const isFull = (other) => ticks.get(other)?.treatment === "full";
  if (tied[name] && isFull(tied[name])) return tied[name];
  return Object.keys(tied).find((other) => tied[other] === name && isFull(other)) ?? name;
}
