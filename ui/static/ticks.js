// Rules of the ticks, apart from the page: what a tick replaces, their order, and whether they are a preset.

/** What a tick may set for its kind alone.
 * @type {("r" | "lora_alpha" | "lr" | "layers")[]} */
export const OWN = ["r", "lora_alpha", "lr", "layers"];

/** @typedef {Map<string, Tick>} Ticks by name */

/**
 * Tick a kind. A fused module and its slices are two ways to the same weights: the newer tick stays.
 * @param {Ticks} ticks changed in place
 * @param {Iterable<ModuleRow>} rows
 * @param {string} name
 * @param {Treatment} treatment
 */
export function setTick(ticks, rows, name, treatment) {
  const layers = ticks.get(name)?.layers; // rank, alpha and learning rate of one treatment do not fit the other
  ticks.set(name, { name, treatment, ...(layers && { layers }) });
  const all = [...rows];
  const parent = all.find((row) => row.name === name)?.slice_of;
  for (const other of all) if (other.slice_of === name || other.name === parent) ticks.delete(other.name);
}

/**
 * Set a value of one tick from what was typed; an empty text takes it back.
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
 * Ticks in the order of the rows, whatever was ticked first; then those without a row.
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
  return preset.ticks.length === ticks.size && preset.ticks.every(({ name, treatment }) => {
    const tick = ticks.get(name);
    return tick?.treatment === treatment && !OWN.some((key) => tick[key]);
  });
}
