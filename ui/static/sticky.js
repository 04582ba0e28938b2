// What sticks to an edge of the window needs its height in the style sheet: what is too high to fit scrolls with the page.
const STICKY = ["#col-modules > .card", "#live-card", "#go"];

const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries)
    if (target instanceof HTMLElement) target.style.setProperty("--height", `${target.offsetHeight}px`);
});

/** Watch the parts of the page that stick, once they exist. */
export function measureSticky() {
  const found = STICKY.map((selector) => document.querySelector(selector));
  if (found.includes(null)) setTimeout(measureSticky, 200);
  else for (const node of found) if (node) sizes.observe(node);
}
