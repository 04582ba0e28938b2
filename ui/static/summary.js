// Keeps the memory breakdown open or closed as the user left it: the summary is redrawn after every tick.
let open = false;

element.addEventListener("toggle", ({ target }) => {
  if (target instanceof HTMLDetailsElement && target.isConnected) open = target.open;
}, true);

// a problem's button, here and in the data's sheet, holds the settings that solve it
element.addEventListener("click", ({ target }) => {
  const button = target instanceof Element ? target.closest("button.cure") : null;
  if (button instanceof HTMLElement) trigger("fix", { changes: button.dataset.changes });
});

watch("value", () => {
  const details = element.querySelector("details");
  if (details && details.open !== open) details.open = open;
});

export {};
