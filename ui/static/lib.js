// Helpers that components share: elements, JSON from Python, searching and sorting.

/**
 * Create an element with attributes, listeners (`onclick`) and children. Attributes that are false or null, and children
 * that are null, are left out.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Node | string | null | undefined)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/**
 * Find an element that must exist.
 * @template {keyof HTMLElementTagNameMap} [Tag="div"]
 * @param {ParentNode} root
 * @param {string} selector
 * @param {Tag} [_tag] which element it is
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function find(root, selector, _tag) {
  const node = root.querySelector(selector);
  if (!node) throw new Error(`The page lacks ${selector}.`);
  return /** @type {HTMLElementTagNameMap[Tag]} */ (node);
}

/**
 * Restore the focus to the input with a value, if a redrawn list still has it.
 * @param {ParentNode} root
 * @param {string} value
 */
export function focus(root, value) {
  const input = root.querySelector(`input[value="${CSS.escape(value)}"]`);
  if (input instanceof HTMLElement) input.focus();
}

/**
 * Parse JSON from Python; `fallback` if it is empty or invalid.
 * @template Content
 * @param {string | null | undefined} json
 * @param {Content} fallback
 * @returns {Content}
 */
export function read(json, fallback) {
  try {
    return JSON.parse(json || "null") ?? fallback;
  } catch {
    return fallback;
  }
}

/**
 * Whether a text contains every word of a query, in any order and case.
 * @param {string} query
 * @param {string} text
 */
export function matches(query, text) {
  const lower = text.toLowerCase();
  return query.toLowerCase().split(/\s+/).every((word) => lower.includes(word));
}

/**
 * Compare two values for sorting: numbers by value, text in natural order. Missing values always come last.
 * @param {unknown} first
 * @param {unknown} second
 * @param {boolean} down
 */
export function compare(first, second, down) {
  if (first == null || second == null) return Number(first == null) - Number(second == null);
  const order =
    typeof first === "number" && typeof second === "number"
      ? first - second
      : String(first).localeCompare(String(second), undefined, { numeric: true });
  return down ? -order : order;
}

/**
 * A number in its shortest form: 0.0002 is 2e-4. Text stays as it is.
 * @param {string | number | null | undefined} value
 */
export function typed(value) {
  if (typeof value !== "number") return value ?? "";
  const [plain, scientific] = [String(value), value.toExponential()];
  return scientific.length < plain.length ? scientific : plain;
}

/**
 * The value stored in the browser under a key; null if there is none.
 * @param {string} key
 */
export function recall(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/**
 * @param {string} key
 * @param {string} value
 */
export function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // without storage, it is forgotten with the page
  }
}
