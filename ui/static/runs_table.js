// The table of runs inside a gr.HTML component: search, sort, choose. props.value is the chosen run's id.
const [ENDED, OPEN] = Object.keys({ ended: 0, open: 0 }); // runs that are over are sent once, open ones as they go on
const COLUMNS = [
  ["state", "State"], ["name", "Run"], ["model", "Model"], ["modules", "Modules"], ["loss", "Loss"],
  ["eval_loss", "Eval loss"], ["trainable", "Trainable"], ["elapsed", "Time"], ["created", "Started"],
];
const NUMBERS = new Set(["loss", "eval_loss", "trainable", "elapsed", "created"]);
const MOST = 500; // rows drawn at once; a browser takes seconds for ten thousand
const body = element.querySelector("tbody");
const search = element.querySelector("input[type=search]");
const empty = element.querySelector(".empty");
let rows = null; // not read yet
let sort = { key: "created", down: true };

const headers = COLUMNS.map(([key, title]) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = title;
  button.addEventListener("click", () => {
    sort = { key, down: sort.key === key ? !sort.down : NUMBERS.has(key) && !key.endsWith("loss") };
    draw();
  });
  const cell = document.createElement("th");
  cell.scope = "col";
  cell.className = NUMBERS.has(key) ? "number" : `is-${key}`;
  cell.append(button);
  element.querySelector("thead tr").append(cell);
  return [key, cell];
});

function compare(first, second) {
  const [a, b] = [first[sort.key], second[sort.key]];
  if (a == null || b == null) return (a == null) - (b == null);
  const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  return sort.down ? -order : order;
}

function matches(row) {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = [row.state, row.name, row.model, row.modules, row.id, row.shown.created].join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

function cell(key, row) {
  const node = document.createElement("td");
  const text = row.shown[key] ?? row[key] ?? "";
  node.className = NUMBERS.has(key) ? "number" : `is-${key}`;
  if (key === "state") {
    const pill = document.createElement("span");
    pill.className = `pill ${row.state}`;
    pill.textContent = text;
    node.append(pill);
  } else if (key === "name") {
    const radio = document.createElement("input");
    const label = document.createElement("label");
    Object.assign(radio, { type: "radio", name: "run", value: row.id, checked: row.id === props.value });
    radio.addEventListener("change", () => choose(row.id));
    label.append(radio, text);
    node.append(label);
  } else node.textContent = text;
  node.title = text;
  return node;
}

function choose(id) {
  props.value = id;
  paint();
}

function paint() {
  for (const line of body.children) {
    const chosen = line.dataset.id === props.value;
    line.classList.toggle("chosen", chosen);
    line.querySelector("input").checked = chosen;
  }
}

function draw() {
  const focused = body.contains(document.activeElement) ? document.activeElement.value : null;
  for (const [key, cell] of headers)
    cell.ariaSort = sort.key === key ? (sort.down ? "descending" : "ascending") : "none";
  const found = (rows ?? []).filter(matches).sort(compare);
  body.replaceChildren(
    ...found.slice(0, MOST).map((row) => {
      const line = document.createElement("tr");
      line.dataset.id = row.id;
      line.addEventListener("click", () => choose(row.id));
      line.append(...COLUMNS.map(([key]) => cell(key, row)));
      return line;
    }),
  );
  empty.hidden = !rows || (found.length > 0 && found.length <= MOST);
  if (found.length > MOST) {
    empty.querySelector("strong").textContent = `The first ${MOST} of ${found.length} runs`;
    empty.querySelector("span").textContent = "Search to find the others.";
  } else sayNone();
  paint();
  if (focused) body.querySelector(`input[value="${focused}"]`)?.focus();
}

function sayNone() {
  empty.querySelector("strong").textContent = rows.length ? "No run matches" : "No run yet";
  empty.querySelector("span").textContent = rows.length
    ? "Search for another word of its name, model, modules or state."
    : "Start one on the Train tab; it is kept here with its settings and its adapter.";
}

function readRows() {
  rows = props[ENDED] ? JSON.parse(props[ENDED]).concat(JSON.parse(props[OPEN])) : null;
}

search.addEventListener("input", draw);
watch([ENDED, OPEN], () => { readRows(); draw(); });
watch("value", paint);
readRows();
draw();
