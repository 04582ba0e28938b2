// The table of a comparison: means of scenarios or single runs, sorted by any column; its CSV is made in the browser.
const [CONTENT] = Object.keys({ content: 0 });
const head = element.querySelector("thead tr");
const body = element.querySelector("tbody");
const every = element.querySelector(".every");
let content = { columns: [], groups: [], runs: [], csv: "" };
let sort = { key: "eval_loss", down: false };

function compare(first, second) {
  const [a, b] = [first.raw[sort.key], second.raw[sort.key]];
  if (a == null || b == null) return (a == null) - (b == null);
  const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  return sort.down ? -order : order;
}

function header(column) {
  const cell = document.createElement("th");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = column.title;
  button.addEventListener("click", () => {
    sort = { key: column.key, down: sort.key === column.key && !sort.down };
    draw();
  });
  cell.scope = "col";
  cell.className = column.key === "name" ? "is-title" : "number";
  cell.ariaSort = sort.key === column.key ? (sort.down ? "descending" : "ascending") : "none";
  cell.append(button);
  return cell;
}

function line(row) {
  const node = document.createElement("tr");
  for (const { key } of content.columns) {
    const cell = document.createElement("td");
    cell.className = key === "name" ? "is-title" : "number";
    if (key === "name") {
      const dot = document.createElement("i");
      dot.className = "dot";
      dot.style.background = row.colour;
      cell.append(dot);
    }
    cell.append(row.shown[key]);
    cell.title = row.shown[key];
    node.append(cell);
  }
  return node;
}

function draw() {
  const focused = [...head.querySelectorAll("button")].indexOf(document.activeElement);
  const alone = content.runs.length === content.groups.length; // one seed each: no means to show
  const rows = every.checked || alone ? content.runs : content.groups;
  every.parentElement.hidden = alone;
  head.replaceChildren(...content.columns.map(header));
  body.replaceChildren(...[...rows].sort(compare).map(line));
  if (focused >= 0) head.querySelectorAll("button")[focused]?.focus();
}

function take() {
  try {
    content = { ...content, ...JSON.parse(props[CONTENT] || "{}") };
  } catch {
    return;
  }
  draw();
}

element.querySelector(".csv").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content.csv], { type: "text/csv" }));
  link.download = "runs.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});
every.addEventListener("change", draw);
watch(CONTENT, take);
take();
