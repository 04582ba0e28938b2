// Rules for ticks, without the DOM: what a tick replaces, their order, and whether they are a preset.

/** Settings that a tick can override for its kind.
 * @type {("r" | "lora_alpha" | "lr" | "layers")[]} */
export const OWN = ["r", "lora_alpha", "lr", "layers"];

/** @typedef {Map<string, Tick>} Ticks by name */

/**
 * Tick a kind. A fused module and its slices train the same weights, so the newer tick replaces the older one.
 * @param {Ticks} ticks changed in place
 * @param {Iterable<ModuleRow>} rows
 * @param {string} name
 * @param {Treatment} treatment
 */
export function setTick(ticks, rows, name, treatment) {
  const layers = ticks.get(name)?.layers; // rank, alpha and learning rate do not carry over to another treatment
  ticks.set(name, { name, treatment, ...(layers && { layers }) });
  const all = [...rows];
  const parent = all.find((row) => row.name === name)?.slice_of;
  for (const other of all) if (other.slice_of === name || other.name === parent) ticks.delete(other.name);
}

/**
 * Set a value of one tick from typed text; empty text removes it.
 * @param {Ticks} ticks changed in place
 * @param {string} name
 * @param {"r" | "lora_alpha" | "lr" | "layers"} key
 * @param {string} value
 */
export function adjustTick(ticks, name, key, value) {
  const tick = ticks.get(name);
  if (!tick) return;
  const text = value.trim();
  const { [key]: _, ...others } = tick;
  const isText = key === "layers" || Number.isNaN(Number(text));
  ticks.set(name, text === "" ? others : { ...others, [key]: isText ? text : Number(text) });
}

/**
 * Ticks in row order, followed by those without a row.
 * @param {Ticks} ticks
 * @param {Iterable<string>} names of the rows
 */
export function inOrder(ticks, names) {
  const places = new Map([...names].map((name, place) => [name, place]));
  /** @param {Tick} tick */
  const place = (tick) => places.get(tick.name) ?? places.size;
  return [...ticks.values()].sort((first, second) => place(first) - place(second));
}

/**
 * Whether these are the ticks of a preset and nothing else.
 * @param {Ticks} ticks
 * @param {Preset} preset
 */
export function isPreset(ticks, preset) {
  return preset.ticks.length === ticks.size && preset.ticks.every(({ name, treatment, ...rest }) => {
    const tick = ticks.get(name);
    return tick?.treatment === treatment && OWN.every((key) => String(tick[key] ?? "") === String(rest[key] ?? ""));
  });
}
