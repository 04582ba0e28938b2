import assert from "node:assert/strict";
import { test } from "node:test";
import { compare, matches, read, typed } from "../../ui/static/lib.js";
import { nextSort, overflow, sorted } from "../../ui/static/table.js";

const value = (row, key) => row[key];
const names = (rows, key, down) => sorted(rows, { key, down }, value).map((row) => row.name);
const ROWS = [{ name: "run 10", loss: 0.5 }, { name: "run 9", loss: null }, { name: "Run 2", loss: 1e-3 }, { name: "run 1", loss: 10 }];

test("numbers are sorted by size, and what is missing comes last both ways", () => {
  assert.deepEqual(names(ROWS, "loss", false), ["Run 2", "run 10", "run 1", "run 9"]);
  assert.deepEqual(names(ROWS, "loss", true), ["run 1", "run 10", "Run 2", "run 9"]);
});

test("names are sorted by the numbers in them", () => {
  assert.deepEqual(names(ROWS, "name", false), ["run 1", "Run 2", "run 9", "run 10"]);
  assert.equal(compare("a", null, true), -1);
  assert.equal(compare(undefined, null, false), 0);
});

test("sorting leaves the rows as they came", () => {
  const rows = [{ name: "b" }, { name: "a" }];
  names(rows, "name", false);
  assert.deepEqual(rows, [{ name: "b" }, { name: "a" }]);
});

test("a second click turns the order round, another column starts with its own", () => {
  const loss = { key: "loss", title: "Loss", class: "" };
  const time = { key: "time", title: "Time", class: "", down: true };
  let sort = nextSort({ key: "name", down: true }, loss);
  assert.deepEqual(sort, { key: "loss", down: false });
  sort = nextSort(sort, loss);
  assert.deepEqual(sort, { key: "loss", down: true });
  assert.deepEqual(nextSort(sort, time), { key: "time", down: true });
});

test("only a table that is cut says so", () => {
  assert.equal(overflow(500), "");
  assert.equal(overflow(501), "The first 500 of 501 runs");
});

test("every word of a query must be there, in any order and case", () => {
  assert.ok(matches("LLAMA  run", "Run of a llama-3"));
  assert.ok(!matches("llama qwen", "Run of a llama-3"));
  assert.ok(matches("", "anything"));
  assert.ok(matches("  3 ", "llama-3"));
});

test("what cannot be read is the fallback", () => {
  for (const json of [undefined, null, "", "null", "{", "no"]) assert.deepEqual(read(json, [1]), [1]);
  assert.deepEqual(read('{"a":0}', {}), { a: 0 });
  assert.equal(read("0", 5), 0);
});

test("numbers read as a person types them", () => {
  assert.equal(typed(0.0002), "2e-4");
  assert.equal(typed(16), "16");
  assert.equal(typed(0.5), "0.5");
  assert.equal(typed(0.00123), "0.00123");
  assert.equal(typed("0-15"), "0-15");
  assert.equal(typed(undefined), "");
});
