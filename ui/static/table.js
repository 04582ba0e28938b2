// A table that can be sorted by any column, for all runs and for comparisons.
import { compare, find, focus, make } from "./lib.js";

const FIRST_ROWS = 20; // what is below the table stays in reach; a button shows the others
const MAX_ROWS = 500; // drawn at once; a browser takes seconds for ten thousand

/** @typedef {{ key: string, down: boolean }} Sort */
/** @typedef {{ key: string, title: string, class: string, down?: boolean }} Column `down`: high values first */

/**
 * @template Row
 * @param {HTMLElement} root
 * @param {object} options
 * @param {Sort} options.sort
 * @param {(row: Row, key: string) => unknown} options.value what a column sorts by
 * @param {(row: Row, column: Column) => HTMLElement} options.cell
 * @param {(row: Row) => string} [options.id]
 * @param {(line: HTMLTableRowElement, row: Row) => void} [options.decorate] a new line
 * @returns {(columns: Column[], rows: Row[]) => void} draws the table
 */
export function sortedTable(root, { sort, value, cell, id, decorate }) {
  const head = find(root, "thead tr");
  const body = find(root, "tbody");
  /** @type {Column[]} */
  let columns = [];
  /** @type {Row[]} */
  let rows = [];
  let limit = FIRST_ROWS;
  const rest = make("button", { type: "button", class: "rest", onclick: () => {
    limit = MAX_ROWS;
    draw();
  } });
  find(root, "table", "table").after(rest);

  /** @param {Column} column */
  function header(column) {
    const button = make("button", { type: "button", onclick: () => {
      sort = nextSort(sort, column);
      draw();
    } }, column.title);
    return make("th", { scope: "col", class: column.class }, button);
  }

  /** @param {Column[]} newColumns */
  function setColumns(newColumns) {
    // headers are only replaced if they change: otherwise a click in progress would be lost
    if (JSON.stringify(newColumns) === JSON.stringify(columns)) return;
    columns = newColumns;
    head.replaceChildren(...columns.map(header));
  }

  /** @type {Map<string, HTMLTableRowElement>} */
  let lines = new Map(); // by id: what has not changed stays, so that a click in progress is not lost

  /** @param {Row} row */
  function line(row) {
    const cells = columns.map((column) => cell(row, column));
    const old = lines.get(id?.(row) ?? "");
    if (!old || old.children.length !== cells.length) {
      const node = make("tr", {}, ...cells);
      decorate?.(node, row);
      return node;
    }
    for (const [place, fresh] of cells.entries())
      if (!old.children[place].isEqualNode(fresh)) old.children[place].replaceWith(fresh);
    return old;
  }

  /** @param {Row[]} shown */
  function drawLines(shown) {
    const nodes = shown.map(line);
    for (const [place, node] of nodes.entries())
      if (body.children[place] !== node) body.insertBefore(node, body.children[place] ?? null);
    while (body.children.length > nodes.length) body.lastElementChild?.remove();
    lines = new Map(id ? nodes.map((node, place) => [id(shown[place]), node]) : []);
  }

  function draw() {
    const focused = document.activeElement;
    const kept = focused instanceof HTMLInputElement && body.contains(focused) ? focused.value : "";
    for (const [place, { key }] of columns.entries())
      head.children[place].ariaSort = sort.key !== key ? "none" : sort.down ? "descending" : "ascending";
    drawLines(sorted(rows, sort, value).slice(0, limit));
    rest.hidden = rows.length <= limit || limit === MAX_ROWS;
    rest.textContent = `Show all ${rows.length.toLocaleString("en")} runs`;
    if (kept) focus(body, kept);
  }

  return (newColumns, newRows) => {
    setColumns(newColumns);
    rows = newRows;
    draw();
  };
}

/**
 * @template Row
 * @param {Row[]} rows
 * @param {Sort} sort
 * @param {(row: Row, key: string) => unknown} value
 */
export function sorted(rows, { key, down }, value) {
  return [...rows].sort((first, second) => compare(value(first, key), value(second, key), down));
}

/**
 * Clicking the sorted column reverses its order; another column starts with its default order.
 * @param {Sort} sort
 * @param {Column} column
 * @returns {Sort}
 */
export function nextSort(sort, column) {
  return { key: column.key, down: sort.key === column.key ? !sort.down : Boolean(column.down) };
}

/**
 * A note if there are too many rows to draw.
 * @param {number} count
 */
export const overflow = (count) => (count > MAX_ROWS ? `The first ${MAX_ROWS} of ${count} runs` : "");
