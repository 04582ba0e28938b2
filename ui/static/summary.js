// Keeps the memory's breakdown as open as the person left it: the summary is drawn anew after every tick.
const [VALUE] = Object.keys({ value: 0 });
let open = false;

element.addEventListener(
  Object.keys({ toggle: 0 })[0],
  (event) => {
    if (event.target.isConnected) open = event.target.open;
  },
  true,
);

// a problem's button says which settings cure it
element.addEventListener("click", (event) => {
  const button = event.target.closest("button.cure");
  if (button) trigger("click", { changes: button.dataset.changes });
});

watch(VALUE, () => {
  const details = element.querySelector("details");
  if (details && details.open !== open) details.open = open;
});
