// What unfolds over the page (`details.overlay`) closes on Escape, on a click elsewhere, and when Tab leaves it.

/** @param {(details: HTMLDetailsElement) => boolean} when */
function closeOverlays(when) {
  for (const details of document.querySelectorAll("details.overlay[open]"))
    if (details instanceof HTMLDetailsElement && when(details)) details.open = false;
}

/** Let overlays close; once for the page. */
export function closeOverlaysOutside() {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    closeOverlays((details) => {
      if (details.contains(document.activeElement)) details.querySelector("summary")?.focus();
      return true;
    });
  });
  document.addEventListener("pointerdown", ({ target }) => closeOverlays((details) => !details.contains(/** @type {Node} */ (target))));
  document.addEventListener("focusin", ({ target }) => closeOverlays((details) => !details.contains(/** @type {Node} */ (target))));
}
