import assert from "node:assert/strict";
import { test } from "node:test";
import { adjustTick, inOrder, isPreset, setTick } from "../../ui/static/ticks.js";

const ROWS = [{ name: "qkv" }, { name: "qkv.q", slice_of: "qkv" }, { name: "qkv.v", slice_of: "qkv" }, { name: "o" }];

function ticked(...names) {
  const ticks = new Map();
  for (const name of names) setTick(ticks, ROWS, name, "lora");
  return [...ticks.keys()];
}

test("a fused module and its slices exclude each other: the newer tick stays", () => {
  assert.deepEqual(ticked("qkv", "o", "qkv.q"), ["o", "qkv.q"]);
  assert.deepEqual(ticked("qkv.q", "qkv.v", "o", "qkv"), ["o", "qkv"]);
  assert.deepEqual(ticked("qkv.q", "qkv.v"), ["qkv.q", "qkv.v"]);
});

test("another treatment keeps the layers and drops what fits only the old one", () => {
  const ticks = new Map([["o", { name: "o", treatment: "lora", r: 8, lr: 2e-4, layers: "0-3" }]]);
  setTick(ticks, ROWS, "o", "full");
  assert.deepEqual(ticks.get("o"), { name: "o", treatment: "full", layers: "0-3" });
});

test("typed numbers are numbers, layers and nonsense stay text, nothing takes a value back", () => {
  const ticks = new Map([["o", { name: "o", treatment: "lora" }]]);
  adjustTick(ticks, "o", "r", " 16 ");
  adjustTick(ticks, "o", "lr", "2e-4");
  adjustTick(ticks, "o", "layers", "3");
  assert.deepEqual(ticks.get("o"), { name: "o", treatment: "lora", r: 16, lr: 2e-4, layers: "3" });
  adjustTick(ticks, "o", "r", "many");
  adjustTick(ticks, "o", "lr", "  ");
  assert.deepEqual(ticks.get("o"), { name: "o", treatment: "lora", r: "many", layers: "3" });
});

test("ticks are sent in the order of the rows, those without a row last", () => {
  const ticks = new Map(["gone", "o", "qkv"].map((name) => [name, { name, treatment: "lora" }]));
  assert.deepEqual(inOrder(ticks, ["qkv", "o"]).map((tick) => tick.name), ["qkv", "o", "gone"]);
});

test("ticks are a preset only if nothing is added, missing or changed", () => {
  const preset = { ticks: [{ name: "o", treatment: "lora" }, { name: "qkv", treatment: "lora" }] };
  const ticks = new Map(["qkv", "o"].map((name) => [name, { name, treatment: "lora" }]));
  assert.ok(isPreset(ticks, preset));
  adjustTick(ticks, "o", "r", "4");
  assert.ok(!isPreset(ticks, preset));
  adjustTick(ticks, "o", "r", "");
  assert.ok(isPreset(ticks, preset));
  setTick(ticks, ROWS, "o", "full");
  assert.ok(!isPreset(ticks, preset));
  ticks.delete("o");
  assert.ok(!isPreset(ticks, preset));
});
