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

function line(row, open) {
  const node = document.createElement("div");
  const box = document.createElement("input");
  const account = document.createElement("div");
  Object.assign(box, { type: "checkbox", checked: row.on, disabled: !row.free, value: row.key, ariaLabel: row.title });
  box.addEventListener("change", () => leave(row.key, box.checked));
  account.innerHTML = row.account; // made by the app, every foreign text in it escaped
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
