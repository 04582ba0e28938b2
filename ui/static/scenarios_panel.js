// The scenarios of a set, each with a box to leave it out. props.value: the keys left out, as a JSON list.
const [CONTENT] = Object.keys({ content: 0 });
const root = element.querySelector(".offers");

function read(json, fallback) {
  try {
    return JSON.parse(json) ?? fallback;
  } catch {
    return fallback;
  }
}

function leave(key, on) {
  const left = new Set(read(props.value || "[]", []));
  if (on) left.delete(key);
  else left.add(key);
  props.value = JSON.stringify([...left]);
}

function make(tag, text, ...children) {
  const node = document.createElement(tag);
  node.append(...[text, ...children].filter(Boolean));
  return node;
}

function section(row) {
  const node = make("section", "", make("strong", row.title), make("p", row.said));
  node.className = row.on ? "offer" : "offer same";
  if (row.issues.length) {
    const issues = make("ul", "", ...row.issues.map((issue) => make("li", issue)));
    issues.className = "nothing";
    node.append(issues);
  }
  const receipts = row.receipts.map(({ tick, text, ok }) => {
    const item = make("li", "", make("code", tick), ` ${text}`);
    item.className = ok ? "" : "bad";
    return item;
  });
  if (receipts.length) node.append(make("details", "", make("summary", "Receipts"), make("ul", "", ...receipts)));
  return node;
}

function line(row, open) {
  const node = document.createElement("div");
  const box = document.createElement("input");
  Object.assign(box, { type: "checkbox", checked: row.on, disabled: !row.free, value: row.key, ariaLabel: row.title });
  box.addEventListener("change", () => leave(row.key, box.checked));
  const account = section(row);
  if (open.has(row.key)) account.querySelector("details")?.setAttribute("open", "");
  node.dataset.key = row.key;
  node.append(box, account);
  return node;
}

function draw() {
  const content = read(props[CONTENT], {});
  const open = new Set([...root.querySelectorAll("details[open]")].map((item) => item.closest("[data-key]")?.dataset.key));
  if (content.notice) {
    const told = document.createElement("p");
    told.className = "nothing";
    told.textContent = content.notice;
    root.replaceChildren(told);
  } else root.replaceChildren(...(content.rows ?? []).map((row) => line(row, open)));
}

watch(CONTENT, draw);
draw();
