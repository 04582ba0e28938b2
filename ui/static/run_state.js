// The run in the tab's title, and a notification when it ends. props.runs: the run shown, and those that props.value names.
import { find, read, recall, remember } from "./lib.js";

const APP = "LoRA Module Lab";
const KEY = "lab-notify";
const control = find(element, "label");
const box = find(element, "input", "input");
const text = find(element, "span");
const available = window.isSecureContext && "Notification" in window;
/** @type {Set<string>} ids of runs that this page has seen before their end */
const followed = new Set();
/** @type {Set<string>} ids of runs that ended while this page was open */
const ended = new Set();

/** @param {RunState | undefined} run */
function titleOf(run) {
  if (run?.open) return `${run.progress} · ${run.name} – ${APP}`;
  return run && ended.has(run.id) ? `${run.state} · ${run.name} – ${APP}` : APP;
}

/** @param {RunState} run */
function announce(run) {
  if (!box.checked || Notification.permission !== "granted") return;
  try {
    // the same tag on every open tab: it is shown once
    const shown = new Notification(`${run.name}: ${run.state}`, { body: run.result, tag: run.id, silent: true });
    shown.onclick = () => window.focus();
  } catch {
    // Chrome on Android only lets service workers notify
  }
}

function update() {
  const runs = read(props.runs, /** @type {RunState[]} */ ([]));
  for (const run of runs) {
    if (run.open) followed.add(run.id);
    else if (followed.delete(run.id)) {
      ended.add(run.id);
      announce(run);
    }
  }
  const ids = JSON.stringify([...followed]);
  if (props.value !== ids) props.value = ids;
  const title = titleOf(runs[0]);
  if (document.title !== title) document.title = title;
  control.hidden = !available || !runs[0]?.open;
}

function showPermission() {
  const blocked = available && Notification.permission === "denied";
  box.disabled = blocked;
  box.checked = available && Notification.permission === "granted" && recall(KEY) === "on";
  text.textContent = blocked ? "Notifications are blocked in this browser" : "Notify me when it ends";
}

box.addEventListener("change", async () => {
  remember(KEY, box.checked ? "on" : "off");
  if (box.checked && Notification.permission === "default") await Notification.requestPermission();
  showPermission();
});
watch("runs", update);
if (available) showPermission();
update();
