// Gradio puts the explanation of a field into its label, and gives every choice of a radio group a group of its own. Here a
// field is named by its label alone, its explanation is its description, and a radio group has a name.

/**
 * @param {Element} setting
 * @param {string} selector
 * @param {string} end of its id
 */
function idOf(setting, selector, end) {
  const node = setting.querySelector(selector);
  if (!node) return null;
  node.id = `${setting.id}-${end}`;
  return node.id;
}

/**
 * @param {Element} node
 * @param {string} name
 * @param {string | null} value
 */
function set(node, name, value) {
  if (value && node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** @param {Element} setting */
function labelField(setting) {
  const label = idOf(setting, "[data-testid=block-info], .label-text", "label");
  const help = idOf(setting, ".info-text", "help");
  const radios = [...setting.querySelectorAll("input[type=radio]")];
  const holders = radios.length ? [radios[0].closest(".wrap") ?? setting] : setting.querySelectorAll("input, textarea");
  if (radios.length) set(holders[0], "role", "radiogroup");
  for (const radio of radios) set(radio, "name", setting.id);
  for (const holder of holders) {
    set(holder, "aria-labelledby", label);
    set(holder, "aria-describedby", help);
  }
}

/** Label all fields of the page, and those that appear later. */
export function labelFields() {
  let waiting = false;
  const label = () => {
    waiting = false;
    document.querySelectorAll(".block[id]:has([data-testid=block-info], .label-text)").forEach(labelField);
  };
  new MutationObserver(() => {
    if (!waiting) setTimeout(label, 200);
    waiting = true;
  }).observe(document.body, { childList: true, subtree: true });
  label();
}
