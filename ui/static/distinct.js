// Texts of a column, shortened where they are equal to their neighbors, not where they differ.

const MAX = 34; // characters that a cell shows
const KEPT = 10; // of an equal beginning or end, at least
const MIN_LEFT_OUT = 5; // or the dots would hardly be shorter

/**
 * What to show for each text. Texts that fit stay as they are; of the others, what they share with the most similar
 * text is cut in its middle.
 * @param {string[]} texts
 * @returns {Map<string, string>}
 */
export function distinct(texts) {
  const all = [...new Set(texts)];
  const starts = closest(all, sharedStart, (text) => text);
  const ends = closest(all, sharedEnd, (text) => [...text].reverse().join(""));
  const shown = new Map(all.map((text) => [text, shorten(text, starts.get(text) ?? 0, ends.get(text) ?? 0)]));
  const seen = new Map();
  for (const short of shown.values()) seen.set(short, (seen.get(short) ?? 0) + 1);
  for (const [text, short] of shown) if (seen.get(short) > 1) shown.set(text, text); // never two alike
  return shown;
}

/**
 * For each text, the most characters that it shares with another one: a neighbor once they are sorted.
 * @param {string[]} texts
 * @param {(first: string, second: string) => number} shared
 * @param {(text: string) => string} key to sort by
 */
function closest(texts, shared, key) {
  const order = texts.map((text) => ({ text, by: key(text) })).sort((first, second) => (first.by < second.by ? -1 : 1));
  const lengths = order.slice(1).map(({ text }, place) => shared(order[place].text, text));
  return new Map(order.map(({ text }, place) => [text, Math.max(lengths[place - 1] ?? 0, lengths[place] ?? 0)]));
}

/**
 * @param {string} first
 * @param {string} second
 */
function sharedStart(first, second) {
  let count = 0;
  while (count < Math.min(first.length, second.length) && first[count] === second[count]) count += 1;
  return count;
}

/**
 * @param {string} first
 * @param {string} second
 */
function sharedEnd(first, second) {
  let count = 0;
  while (count < Math.min(first.length, second.length) && first.at(-1 - count) === second.at(-1 - count)) count += 1;
  return count;
}

/**
 * @param {string} text
 * @param {number} start characters at its beginning that another text has as well
 * @param {number} end
 */
function shorten(text, start, end) {
  if (text.length <= MAX) return text;
  // the equal beginning up to the last whole word, the equal end from the next one
  const first = wordEnd(text, start);
  const last = Math.max(first, wordStart(text, text.length - end));
  const tail = cut(text.slice(last), KEPT);
  const room = Math.max(KEPT, MAX - tail.length - (last - first));
  return cut(text.slice(0, first), room) + text.slice(first, last) + tail;
}

/**
 * A text without its middle, if it is longer than that.
 * @param {string} text
 * @param {number} room
 */
function cut(text, room) {
  if (text.length - room < MIN_LEFT_OUT) return text;
  const head = Math.ceil((room - 1) / 2);
  const rest = text.length - (room - 1 - head);
  const tail = text.slice(wordStart(text, rest)) || text.slice(rest);
  return `${text.slice(0, wordEnd(text, head) || head)}…${tail}`;
}

const BREAKS = /[\s,·/-]/;

/**
 * The end of the last whole word before a place.
 * @param {string} text
 * @param {number} place
 */
function wordEnd(text, place) {
  while (place > 0 && place < text.length && !BREAKS.test(text[place - 1])) place -= 1;
  return place;
}

/**
 * The start of the first whole word from a place on.
 * @param {string} text
 * @param {number} place
 */
function wordStart(text, place) {
  while (place < text.length && place > 0 && !BREAKS.test(text[place - 1])) place += 1;
  return place;
}
