// A run's configuration and log: shown, searched, copied, downloaded. props.run: the run's id; empty hides them.
import { find, make } from "./lib.js";

const MORE = 5;
const LINES = 200;
const WAIT = 250; // milliseconds without a key before a search starts
const UNREACHABLE = "The app does not answer. Check that it is running, then try again.";
const root = find(element, ".run-files");
const settings = find(root, "details.settings-of", "details");
const log = find(root, "details.log-of", "details");
const search = find(log, "input", "input");
let form = "yaml";
let lines = LINES;
let asked = 0;

/**
 * The text at an address of the run. Throws an Error with a sentence if there is none.
 * @param {string} path
 */
async function get(path) {
  /** @type {Response} */
  let response;
  try {
    response = await fetch(`runs/${props.run}/${path}`);
  } catch {
    throw new Error(UNREACHABLE);
  }
  if (!response.ok) throw new Error(await response.text());
  return response;
}

/**
 * @param {HTMLElement} box with a pre and a note
 * @param {string} text
 * @param {string} note
 */
function fill(box, text, note) {
  find(box, "pre", "pre").textContent = text;
  find(box, "pre", "pre").hidden = !text;
  find(box, ".note").textContent = note;
}

async function showSettings() {
  if (!settings.open || !props.run) return;
  const [run, wanted] = [props.run, form];
  for (const button of settings.querySelectorAll("[data-form]"))
    button.setAttribute("aria-pressed", String(button instanceof HTMLElement && button.dataset.form === form));
  try {
    const text = await (await get(`config/${form}`)).text();
    if (run === props.run && wanted === form) fill(settings, text, "");
  } catch (error) {
    if (run === props.run && wanted === form) fill(settings, "", error instanceof Error ? error.message : "");
  }
}

/** @param {{ lines: [number, string][], found: number, complete: boolean, size: number }} found */
function noteOf({ lines: shown, found, complete, size }) {
  const count = (/** @type {number} */ number, /** @type {string} */ what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
  if (!search.value)
    return complete ? count(shown.length, "line") : `The last ${count(shown.length, "line")} of ${size < 1e6 ? `${Math.ceil(size / 1e3)} kB` : `${(size / 1e6).toFixed(1)} MB`}`;
  if (!found) return "No line matches.";
  return complete ? `${count(found, "matching line")}` : `The last ${shown.length} of ${count(found, "matching line")}`;
}

async function showLog() {
  if (!log.open || !props.run) return;
  const number = ++asked;
  try {
    const found = await (await get(`log?lines=${lines}&text=${encodeURIComponent(search.value)}`)).json();
    if (number !== asked) return;
    const numbered = /** @type {[number, string][]} */ (found.lines).map(([place, text]) => (place ? `${place}: ${text}` : text));
    fill(log, numbered.join("\n"), noteOf(found));
    find(log, ".earlier").hidden = found.complete || lines > 1000;
  } catch (error) {
    if (number !== asked) return;
    fill(log, "", error instanceof Error ? error.message : "");
    find(log, ".earlier").hidden = true;
  }
}

/**
 * Copy the text in a box; a page that is not served securely may not, and then the text is selected.
 * @param {HTMLElement} box
 */
async function copy(box) {
  const pre = find(box, "pre", "pre");
  try {
    await navigator.clipboard.writeText(pre.textContent ?? "");
    find(box, ".note").textContent = "Copied.";
  } catch {
    getSelection()?.selectAllChildren(pre);
    find(box, ".note").textContent = "The text is selected: copy it with Ctrl+C.";
  }
}

/** @param {string} path */
async function download(path) {
  const box = path.startsWith("log") ? log : settings;
  try {
    if (path.startsWith("log")) await get("log?lines=1"); // says why, if there is none
    else await get(path);
    const link = make("a", { href: `runs/${props.run}/${path}`, download: "" });
    document.body.append(link);
    link.click();
    link.remove();
  } catch (error) {
    find(box, ".note").textContent = error instanceof Error ? error.message : "";
  }
}

function showRun() {
  root.hidden = !props.run;
  lines = LINES;
  fill(settings, "", "");
  fill(log, "", "");
  showSettings();
  showLog();
}

let timer = 0;
search.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(showLog, WAIT);
});
settings.addEventListener("toggle", showSettings);
log.addEventListener("toggle", showLog);
for (const button of settings.querySelectorAll("[data-form]"))
  button.addEventListener("click", () => {
    form = (button instanceof HTMLElement && button.dataset.form) || form;
    showSettings();
  });
find(settings, ".copy").addEventListener("click", () => copy(settings));
find(log, ".copy").addEventListener("click", () => copy(log));
find(settings, ".save").addEventListener("click", () => download(`config/${form}?download`));
find(log, ".save").addEventListener("click", () => download("log.txt"));
find(log, ".refresh").addEventListener("click", showLog);
find(log, ".earlier").addEventListener("click", () => {
  lines *= MORE;
  showLog();
});
watch("run", showRun);
showRun();
