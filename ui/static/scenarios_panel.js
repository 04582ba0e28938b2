// The scenarios of a set, each with a checkbox. props.value: the keys that were unticked, as a JSON list.
import { find, make, read } from "./lib.js";

const root = find(element, ".offers");

/**
 * @param {string} key
 * @param {boolean} on
 */
function setIncluded(key, on) {
  const left = new Set(read(props.value, /** @type {string[]} */ ([])));
  if (on) left.delete(key);
  else left.add(key);
  props.value = JSON.stringify([...left]);
}

/**
 * @param {ScenarioRow} row
 * @param {boolean} isOpen whether its match report is
 */
function section(row, isOpen) {
  const receipts = row.receipts.map(({ tick, text, ok }) =>
    make("li", { class: ok ? "" : "bad" }, make("code", {}, tick), ` ${text}`));
  return make("section", { class: row.on ? "offer" : "offer same" },
    make("strong", {}, row.title), make("p", {}, row.said),
    row.issues.length ? make("ul", { class: "nothing" }, ...row.issues.map((issue) => make("li", {}, issue))) : null,
    receipts.length
      ? make("details", { open: isOpen }, make("summary", {}, "Match report"), make("ul", {}, ...receipts))
      : null);
}

/**
 * @param {ScenarioRow} row
 * @param {boolean} isOpen
 */
function line(row, isOpen) {
  const box = make("input", {
    type: "checkbox", checked: row.on, disabled: !row.free, value: row.key, "aria-label": row.title,
    onchange: () => setIncluded(row.key, box.checked),
  });
  return make("div", { "data-key": row.key }, box, section(row, isOpen));
}

function draw() {
  const content = read(props.content, /** @type {{ notice?: string, rows?: ScenarioRow[] }} */ ({}));
  const open = new Set([...root.querySelectorAll("details[open]")].map((node) => node.closest("div")?.dataset.key));
  if (content.notice) root.replaceChildren(make("p", { class: "nothing" }, content.notice));
  else root.replaceChildren(...(content.rows ?? []).map((row) => line(row, open.has(row.key))));
}

watch("content", draw);
draw();
