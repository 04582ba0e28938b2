// Downloads: shows beside its button that a file is being prepared, with Cancel, and says so if that fails.
import { make } from "./lib.js";

const SHORT = 2000; // milliseconds after which progress is shown
const STARTED = "The download has started.";
const UNREACHABLE = "The app does not answer. Check that it is running, then try again.";
/** @type {Map<string, HTMLElement>} */
const notes = new Map();

/**
 * The line beside a button, emptied; null if a file is being prepared already.
 * @param {string} id
 */
function lineBeside(id) {
  const button = document.getElementById(id);
  const old = notes.get(id);
  if (!button || old?.dataset.busy) return null;
  old?.remove();
  const note = make("span", { class: "download-note", role: "status" });
  notes.set(id, note);
  button.after(note);
  return note;
}

/**
 * @param {HTMLElement} note
 * @param {boolean} busy
 * @param {string} id of the button
 */
function setBusy(note, busy, id) {
  if (busy) note.dataset.busy = "yes";
  else delete note.dataset.busy;
  document.getElementById(id)?.toggleAttribute("data-preparing", busy);
  document.getElementById(id)?.setAttribute("aria-busy", String(busy));
}

/**
 * @param {HTMLElement} note
 * @param {string} text
 */
function fail(note, text) {
  note.classList.add("failed");
  note.setAttribute("role", "alert");
  note.replaceChildren(`Nothing was downloaded. ${text} `,
    make("button", { type: "button", class: "link", onclick: () => note.remove() }, "Dismiss"));
}

/**
 * The lines of a response, as they arrive.
 * @param {Response} response
 */
async function* linesOf(response) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const lines = rest.split("\n");
    rest = lines.pop() ?? "";
    yield* lines.map((line) => JSON.parse(line));
    if (done) return;
  }
}

/** @param {{ file: string, name: string }} made */
function save({ file, name }) {
  const link = make("a", { href: `gradio_api/file=${file}`, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

/**
 * @param {string} id of the button
 * @param {string} name of the download
 * @param {string | { value?: string } | null} source what to download; gr.HTML passes its value among its props
 */
async function prepare(id, name, source) {
  const value = typeof source === "object" ? source?.value : source;
  const note = lineBeside(id);
  if (!note) return;
  const stop = new AbortController();
  const text = make("span", {}, "Preparing…");
  note.append(text);
  setBusy(note, true, id);
  const began = Date.now();
  try {
    const response = await fetch(`prepare/${name}`, {
      method: "POST", body: JSON.stringify(value ?? ""), signal: stop.signal, headers: { "content-type": "application/json" },
    });
    if (!response.ok) return fail(note, await response.text());
    for await (const { share, error, ...made } of linesOf(response)) {
      if (error) return fail(note, error);
      if (made.file) {
        save(made);
        text.textContent = STARTED;
        setTimeout(() => note.textContent === STARTED && note.remove(), 8000);
        note.replaceChildren(text);
        return;
      }
      if (Date.now() - began < SHORT) continue;
      text.textContent = share ? `Preparing… ${Math.floor(share * 100)} %` : "Preparing…";
      if (note.childElementCount === 1)
        note.append(" ", make("button", { type: "button", class: "link", onclick: () => stop.abort() }, "Cancel"));
    }
    fail(note, "The app ended the transfer early. Try again.");
  } catch {
    if (stop.signal.aborted) note.replaceChildren("Canceled.");
    else fail(note, UNREACHABLE);
  } finally {
    setBusy(note, false, id);
  }
}

Object.assign(window, { prepareDownload: prepare });
