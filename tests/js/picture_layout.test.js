import assert from "node:assert/strict";
import { test } from "node:test";
import { edgesOf, linesOf, pieces, sourceOf, stateOf, widthOf } from "../../ui/static/picture_layout.js";

const box = (left, top, width = 80, height = 20) => ({
  left, right: left + width, top, bottom: top + height, x: left + width / 2, y: top + height / 2,
});
// norm -> attention -> add (with the input around both): one layer of a model
const PATTERN = {
  layers: [0, 1, 2, 3], rows: [[0], [1], [2]], gives: 2, lanes: 1,
  parts: [{ role: "norm", takes: [-1] }, { role: "attention", takes: [0] }, { role: "add", takes: [-1, 1] }],
};
const PLACES = [box(60, 20), box(60, 60), box(90, 100, 20)];
const FRAME = { middle: 100, width: 200, isStack: true };

test("every input of every part has a line, and the last part leaves the block", () => {
  const edges = edgesOf(PATTERN, PLACES, FRAME);
  assert.deepEqual(edges.map((edge) => edge.rows), [[-1, 0], [0, 1], [-1, 2], [1, 2], [2, 3]]);
  assert.deepEqual(edges.map((edge) => edge.skip), [false, false, true, false, false]);
  assert.equal(edges.filter((edge) => edge.out).length, 1);
});

test("outside a stack the first part's line is drawn by the sections", () => {
  const edges = edgesOf(PATTERN, PLACES, { ...FRAME, isStack: false });
  assert.deepEqual(edges.map((edge) => edge.rows), [[0, 1], [-1, 2], [1, 2], [2, 3]]);
});

test("a residual connection runs left of the boxes and ends with an arrowhead at the sign", () => {
  const [around, ...straight] = linesOf(edgesOf(PATTERN, PLACES, FRAME), PATTERN.lanes);
  assert.match(around.d, /^M100 6V10H14q-5 0 -5 5V105q0 5 5 5H89$/); // lane 0 of 1: at x = 9
  assert.deepEqual(around.tip, [89, 110, 1, 0]);
  assert.equal(straight.length, 4);
  assert.equal(straight.at(-1).tip, null); // the line out of the block
});

test("lines that pass by at the same time have lanes of their own; a lane that is free again is taken", () => {
  const edge = (from, to) => ({ from: box(60, 40 * from), to: box(60, 40 * to), rows: [from, to], skip: true });
  const lanes = linesOf([edge(0, 4), edge(1, 3), edge(4, 6)], 2).map(({ d }) => Number(/H(\d+)q/.exec(d)[1]) - 5);
  assert.deepEqual(lanes, [13, 9, 13]);
});

test("boxes side by side are joined by a line with a bend", () => {
  const [line] = linesOf([{ from: box(0, 0), to: box(200, 40), rows: [0, 1], skip: false }], 0);
  assert.deepEqual(line, { d: "M40 20V29H240V38", tip: [240, 40, 0, 1] });
});

const TRAINING = { ticks: new Map(), receipts: {}, tied: {} };
const trained = (tick, receipt, pattern = PATTERN) =>
  stateOf({ name: "q", pattern }, { ...TRAINING, ticks: new Map(tick ? [["q", { name: "q", ...tick }]] : []), receipts: receipt ? { q: receipt } : {} });

test("a unit says what is trained of it, in how many of its layers", () => {
  assert.deepEqual(trained(null), { chip: "", words: "frozen" });
  assert.deepEqual(trained({ treatment: "full" }), { treatment: "full", chip: "Full", words: "Full" });
  const some = { treatment: "lora", layers: "0-1" };
  assert.equal(trained(some).words, "LoRA in layers 0-1");
  assert.equal(trained(some, { ok: true, layers: [0, 1] }).words, "LoRA in 2 of these 4 layers: 0-1");
  assert.equal(trained(some, { ok: true, layers: [0, 1, 2, 3] }).words, "LoRA");
  assert.equal(trained(some, { ok: true, layers: null }).words, "LoRA");
  const elsewhere = trained({ treatment: "lora", layers: "7" }, { ok: true, layers: [7] });
  assert.deepEqual(elsewhere, { chip: "", words: "frozen here: LoRA in layers 7" });
});

test("a tick that matches nothing is no tick", () => {
  const state = trained({ treatment: "lora" }, { ok: false, note: "matches nothing" });
  assert.deepEqual(state, { bad: true, chip: "not trained", words: "frozen: matches nothing" });
});

test("a slice follows its fused module, a tied weight the one that is trained in full", () => {
  const training = (name, treatment, tied = {}) => ({ ...TRAINING, ticks: new Map([[name, { name, treatment }]]), tied });
  assert.equal(sourceOf("qkv.q", "qkv", training("qkv", "lora")), "qkv");
  const tied = { lm_head: "embed" };
  assert.equal(sourceOf("lm_head", undefined, training("embed", "full", tied)), "embed");
  assert.equal(sourceOf("embed", undefined, training("lm_head", "full", tied)), "lm_head");
  assert.equal(sourceOf("lm_head", undefined, training("embed", "lora", tied)), "lm_head");
});

test("names break behind dots and underscores, and take room by their length within bounds", () => {
  assert.deepEqual(pieces("self_attn.q_proj"), ["self_", "attn.", "q_", "proj"]);
  const unit = (name, slices = []) => ({ name, slices });
  assert.ok(widthOf(unit("o")) < widthOf(unit("down_proj_in")));
  assert.equal(widthOf(unit("x".repeat(90))), 150);
  assert.equal(widthOf(unit("qkv", [{}])), 140);
});
