// Marks the fields that a problem is about: red, aria-invalid, with the sentence below. Fields are those of an Issue.

const MARK = "data-invalid";

/**
 * The element that stands for a field; null if it is not on the page now.
 * @param {string} field such as `training.max_length`, `modules.q_proj.lr` or `data`
 * @returns {HTMLElement | null}
 */
export function control(field) {
  const [part, name, key] = field.split(".");
  if (field === "data" || field === "data.path")
    return document.querySelector("#data-hub input, #data-hub textarea") ?? document.querySelector("#data-upload");
  if (field === "model.name") return document.querySelector("#model-input");
  if (part === "modules") {
    const row = name ? document.querySelector(`.modules .row:has(input[data-name="${CSS.escape(name)}"])`) : null;
    return row?.querySelector(`[data-key="${CSS.escape(key ?? "")}"]`)
      ?? row?.querySelector("input") ?? document.querySelector(".modules .row input:not(:disabled)");
  }
  return document.querySelector(`#${CSS.escape(field.replaceAll(".", "-"))} :is(input, textarea, select)`);
}

/**
 * Mark the fields that problems are about, and no others.
 * @param {Record<string, string>} problems sentences by field
 */
export function markFields(problems) {
  const wanted = new Map();
  for (const [field, text] of Object.entries(problems)) {
    const input = control(field);
    if (input?.matches("input, textarea, select") && field !== "modules") wanted.set(input, [field, text]);
  }
  for (const old of document.querySelectorAll(`[${MARK}]`)) if (!wanted.has(old)) unmark(old);
  for (const [input, [field, text]] of wanted) mark(input, field, text);
}

/** @param {Element} input */
const holder = (input) => input.closest(".setting, .extras, .model-field") ?? input.parentElement;

/**
 * @param {HTMLElement} input
 * @param {string} field
 * @param {string} text
 */
function mark(input, field, text) {
  const name = `error-${field.replaceAll(".", "-")}`;
  input.setAttribute(MARK, name);
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-errormessage", name);
  const place = holder(input);
  let line = document.getElementById(name);
  if (!line) {
    line = document.createElement("p");
    line.id = name;
    line.className = "field-error";
    place?.append(line);
  }
  if (line.textContent !== text) line.textContent = text;
}

/** @param {Element} input */
function unmark(input) {
  document.getElementById(input.getAttribute(MARK) ?? "")?.remove();
  for (const name of [MARK, "aria-invalid", "aria-errormessage"]) input.removeAttribute(name);
}

/**
 * Move the focus to the first of these fields, in the order of the page; unfold what hides it.
 * @param {string[]} fields
 */
export function focusFirst(fields) {
  const inputs = fields.map(control).filter((input) => input !== null);
  if (!inputs.length) {
    if (fields.some((field) => field.startsWith("data"))) /** @type {HTMLElement | null} */ (document.querySelector("#data-open"))?.focus();
    return;
  }
  inputs.sort((one, other) => (one.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1));
  const first = inputs[0];
  if (first.offsetParent === null) /** @type {HTMLElement | null} */ (first.closest("#more-settings")?.querySelector("button"))?.click();
  setTimeout(() => { first.scrollIntoView({ block: "nearest" }); first.focus({ preventScroll: true }); }, 60);
}
