// The line above the settings: its button asks Python for the defaults.
element.addEventListener("click", ({ target }) => {
  if (target instanceof Element && target.closest("[data-reset]")) trigger("reset");
});

export {};
