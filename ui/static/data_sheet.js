// The sheet over the page is a dialog: it takes the focus, and Escape closes it.
import { find } from "./lib.js";

const sheet = element.closest("#data-sheet");

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (!sheet?.isConnected) document.removeEventListener("keydown", onKey);
  else if (event.key === "Escape" && !isExpanded(event.target)) find(document, "#data-close").click();
}

// an open menu takes Escape for itself
/** @param {EventTarget | null} target */
const isExpanded = (target) => target instanceof Element && target.getAttribute("aria-expanded") === "true";

if (sheet) {
  sheet.setAttribute("role", "dialog");
  sheet.setAttribute("aria-modal", "true");
  sheet.setAttribute("aria-label", "Data preview");
  document.addEventListener("keydown", onKey);
  setTimeout(() => /** @type {HTMLElement | null} */ (document.querySelector("#data-close"))?.focus(), 50);
}
