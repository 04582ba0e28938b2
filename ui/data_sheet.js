// The sheet over the page is a dialog: it takes the focus, and Escape closes it.
const sheet = element.closest("#data-sheet");
if (sheet) {
  sheet.setAttribute("role", "dialog");
  sheet.setAttribute("aria-modal", "true");
  sheet.setAttribute("aria-label", "The data, as the model will see them");
  sheet.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.querySelector("#data-close")?.click();
  });
  setTimeout(() => document.querySelector("#data-close")?.focus(), 50);
}
