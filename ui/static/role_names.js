// A menu for each name in the conversations of which nothing says who it is.
// props.value: [[name, role], …] as JSON, once every name has a role.
import { find, make, read } from "./lib.js";

const ROLES = ["user", "assistant", "system", "tool", "ignore"];
const root = find(element, ".names");

function choose() {
  const menus = [...root.querySelectorAll("select")];
  if (menus.every((menu) => menu.value)) props.value = JSON.stringify(menus.map((menu) => [menu.name, menu.value]));
}

/**
 * @param {string} name
 * @param {number} count messages of that name
 */
function line(name, count) {
  const options = ROLES.map((role) => make("option", { value: role }, role));
  const menu = make("select", { name, onchange: choose }, make("option", { value: "" }, "choose …"), ...options);
  const messages = count === 1 ? "1 message" : `${count.toLocaleString("en")} messages`;
  return make("label", {}, make("code", {}, name), make("span", { class: "quiet" }, messages), menu);
}

function draw() {
  const { names } = read(props.content, /** @type {{ names?: [string, number][] }} */ ({}));
  root.replaceChildren(...(names ?? []).map(([name, count]) => line(name, count)));
}

watch("content", draw);
draw();
