// The summary above Train, and the problems of the data sheet: folds that stay as they were left, buttons that solve a
// problem or lead to it, and the fields that a problem is about.
import { markFields, focusFirst } from "./field_errors.js";
import { read } from "./lib.js";

let open = false; // the memory breakdown, which is redrawn after every tick
let pressed = false; // Train, and the answer is still to come

element.addEventListener("toggle", ({ target }) => {
  if (target instanceof HTMLDetailsElement && target.isConnected) open = target.open;
}, true);

element.addEventListener("click", ({ target }) => {
  const button = target instanceof Element ? target.closest("button.cure") : null;
  if (!(button instanceof HTMLElement)) return;
  if (button.dataset.do === "show") showRows();
  else if (button.dataset.do === "skip") trigger("skip", { changes: button.dataset.changes });
  else trigger("fix", { changes: button.dataset.changes });
});

/** Open the data sheet at its list of invalid rows; the sheet's own copy of this script scrolls there. */
function showRows() {
  const sheet = document.querySelector("#data-open");
  if (!(sheet instanceof HTMLElement)) return;
  sheet.dataset.rows = "show";
  sheet.click();
}

function arriveAtRows() {
  const sheet = document.querySelector("#data-open");
  const list = element.querySelector(".bad-rows");
  if (!(sheet instanceof HTMLElement && list instanceof HTMLElement) || !sheet.dataset.rows) return;
  delete sheet.dataset.rows;
  for (const fold of list.querySelectorAll("details")) fold.open = true;
  list.scrollIntoView({ block: "nearest" });
  list.focus({ preventScroll: true });
}

function show() {
  const details = element.querySelector("details");
  if (details && details.open !== open) details.open = open;
  arriveAtRows();
  const summary = element.querySelector(".summary");
  if (!(summary instanceof HTMLElement)) return;
  markFields(read(summary.dataset.fields, {}));
  const train = document.querySelector("#train");
  if (element.querySelector("#train-issues")) train?.setAttribute("aria-describedby", "train-issues");
  else train?.removeAttribute("aria-describedby");
  if (pressed && element.querySelector(".refused")) focusFields();
}

function focusFields() {
  pressed = false;
  const summary = element.querySelector(".summary");
  if (summary instanceof HTMLElement) focusFirst(Object.keys(read(summary.dataset.fields, {})));
}

if (element.closest("#summary"))
  document.addEventListener("click", ({ target }) => {
    if (!(target instanceof Element && target.closest("#train"))) return;
    pressed = true;
    if (element.querySelector(".refused")) focusFields(); // the same answer again is not drawn again
  });

watch("value", show);
show();
