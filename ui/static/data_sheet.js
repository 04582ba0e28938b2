// The sheet over the page is a dialog: it takes the focus, and Escape closes it.
const sheet = element.closest("#data-sheet");

function onKey(event) {
  if (!sheet.isConnected) document.removeEventListener("keydown", onKey);
  else if (event.key === "Escape" && event.target.getAttribute("aria-expanded") !== "true") {
    document.querySelector("#data-close").click();
  }
}

if (sheet) {
  sheet.setAttribute("role", "dialog");
  sheet.setAttribute("aria-modal", "true");
  sheet.setAttribute("aria-label", "The data, as the model will see them");
  document.addEventListener("keydown", onKey);
  setTimeout(() => document.querySelector("#data-close")?.focus(), 50);
}
