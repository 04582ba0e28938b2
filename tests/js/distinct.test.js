import assert from "node:assert/strict";
import { test } from "node:test";
import { distinct } from "../../ui/static/distinct.js";

const ALL = "LoRA q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj";

test("texts are shortened where they are equal, and never two to the same", () => {
  const shown = distinct([ALL, `${ALL} · full lm_head`, `${ALL} · full embed_tokens`, "LoRA o_proj", ALL]);
  assert.equal(shown.get("LoRA o_proj"), "LoRA o_proj");
  assert.match(shown.get(`${ALL} · full lm_head`) ?? "", /^LoRA .*….*lm_head$/);
  assert.match(shown.get(`${ALL} · full embed_tokens`) ?? "", /embed_tokens$/);
  assert.equal(new Set(shown.values()).size, shown.size);
  assert.ok((shown.get(ALL) ?? "").length <= 34);
});

test("a number in the middle stays", () => {
  const names = [1, 2].map((seed) => `pirate-smollm2-135m-instruct-lr-1e-4-seed-${seed}-on-all-linear-modules`);
  for (const [seed, text] of [...distinct(names).values()].entries()) assert.ok(text.includes(`-${seed + 1}-`), text);
});
