// The choice of what to compare: one experiment, or any runs. props.value: {"experiment": id} or {"runs": [ids]}.
const [LISTS] = Object.keys({ lists: 0 });
const MOST = 300; // rows drawn at once
const places = { experiments: element.querySelector(".experiments"), runs: element.querySelector(".singles") };
const search = element.querySelector("input[type=search]");
const NONE = {
  experiments: "None yet. Open “Run scenarios” above to start one.",
  runs: "None yet. Press Train on the Train tab.",
};
let lists = { experiments: [], runs: [] };

function read(json) {
  try {
    return JSON.parse(json) ?? {};
  } catch {
    return {};
  }
}

function chosen() {
  const value = read(props.value || "{}");
  return { experiment: value.experiment ?? "", runs: new Set(value.runs ?? []) };
}

function choose(kind, id, on) {
  const { runs } = chosen();
  if (kind === "experiments") props.value = JSON.stringify({ experiment: id });
  else {
    if (on) runs.add(id);
    else runs.delete(id);
    props.value = JSON.stringify({ runs: [...runs] });
  }
  paint();
}

function line(kind, row) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  const name = document.createElement("span");
  const pill = document.createElement("span");
  const note = document.createElement("small");
  Object.assign(input, { type: kind === "experiments" ? "radio" : "checkbox", name: kind, value: row.id });
  input.addEventListener("change", () => choose(kind, row.id, input.checked));
  name.className = "name";
  name.textContent = name.title = row.name;
  pill.className = `pill ${row.state}`;
  pill.textContent = row.state;
  note.textContent = row.note;
  label.append(input, name, pill, note);
  return label;
}

function matches(row) {
  const text = `${row.name} ${row.state} ${row.note} ${row.id}`.toLowerCase();
  return search.value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function draw() {
  const focused = element.contains(document.activeElement) ? document.activeElement.value : null;
  for (const [kind, place] of Object.entries(places)) {
    const rows = (lists[kind] ?? []).filter((row) => kind === "experiments" || matches(row));
    const told = document.createElement("p");
    told.className = "quiet";
    if (rows.length > MOST) told.textContent = `The first ${MOST} of ${rows.length}. Search to find the others.`;
    else if (!rows.length) told.textContent = lists[kind]?.length ? "No run matches." : NONE[kind];
    place.replaceChildren(...rows.slice(0, MOST).map((row) => line(kind, row)), ...(told.textContent ? [told] : []));
  }
  paint();
  if (focused && focused !== search.value) element.querySelector(`input[value="${CSS.escape(focused)}"]`)?.focus();
}

function paint() {
  const { experiment, runs } = chosen();
  for (const input of element.querySelectorAll("label input")) {
    input.checked = input.type === "radio" ? input.value === experiment : runs.has(input.value);
    input.parentElement.classList.toggle("chosen", input.checked);
  }
}

search.addEventListener("input", draw);
watch(LISTS, () => {
  lists = read(props[LISTS]);
  draw();
});
watch("value", paint);
lists = read(props[LISTS]);
draw();
