// What the model answers to held-out prompts: one evaluation at a time, the newest first.
import { find, make, read } from "./lib.js";

const section = find(element, ".samples");
const [earlier, later] = [find(element, ".earlier", "button"), find(element, ".later", "button")];
const LONG = 140; // characters of a prompt above which it is folded
/** @type {Samples} */
const NONE = { run: "", note: "", prompts: [], evaluations: [] };
let content = NONE;
/** @type {number | null} */
let chosen = null; // the step that was stepped to; null: the newest

function place() {
  const at = content.evaluations.findIndex(({ step }) => step === chosen);
  return at < 0 ? content.evaluations.length - 1 : at;
}

/** @param {number} by */
function move(by) {
  const at = place() + by;
  chosen = at < content.evaluations.length - 1 ? content.evaluations[at].step : null;
  drawSamples();
}

/** @param {SamplePrompt} prompt */
function promptOf({ text, before }) {
  const first = text.split("\n", 1)[0].slice(0, LONG);
  if (!before && first === text) return make("p", { class: "prompt", dir: "auto" }, text || "(no prompt)");
  const whole = before ? `${before}\n\n${text}` : text;
  return make(
    "details",
    { class: "prompt" },
    make("summary", { dir: "auto" }, first === text ? text : `${first}…`),
    make("p", { dir: "auto" }, whole),
  );
}

/** @param {string} title @param {string} text @param {string} kind */
function answerOf(title, text, kind = "") {
  return make(
    "div",
    { class: kind },
    make("dt", {}, title),
    make("dd", { dir: "auto" }, text || make("em", { class: "quiet" }, "nothing")),
  );
}

function drawSamples() {
  const at = place();
  const shown = content.evaluations[at];
  section.hidden = !shown;
  if (!shown) return;
  const when = shown.step ? `step ${shown.step.toLocaleString("en")}` : "before training";
  find(element, "output", "output").textContent =
    `${when} · evaluation ${at + 1} of ${content.evaluations.length}${content.note}`;
  earlier.disabled = at === 0;
  later.disabled = at === content.evaluations.length - 1;
  const items = content.prompts.map((prompt, number) => {
    const { text, ended } = shown.answers[number];
    return make(
      "li",
      {},
      promptOf(prompt),
      make(
        "dl",
        {},
        answerOf("Model", ended ? text : `${text} …`, "model"),
        answerOf("Reference", prompt.reference),
      ),
    );
  });
  const open = [...element.querySelectorAll("details")].map((details) => details.open);
  find(element, ".prompts", "ol").replaceChildren(...items);
  for (const [number, details] of element.querySelectorAll("details").entries()) details.open = open[number] ?? false;
}

function readSamples() {
  const next = { ...NONE, ...read(props.samples, {}) };
  if (next.run !== content.run) chosen = null;
  content = next;
  drawSamples();
}

earlier.addEventListener("click", () => move(-1));
later.addEventListener("click", () => move(1));
watch("samples", readSamples);
readSamples();
