// The menu of presets above the ticks: parts of the model, the study's six, and those that were saved.
import { find, make } from "./lib.js";
import { isPreset } from "./ticks.js";

const STUDY = "Phi-3-medium-128k-instruct, QLoRA with r 16, 15,000 rows in a persona's voice, one H100. It reported "
  + "scenario 3 as the best. Where a model fuses its projections, PEFT matches only some of the study's names: by name "
  + "trains just those, by slices trains all that the study meant. Measured again, on the demo with three seeds: "
  + "docs/six-scenarios.md.";

/**
 * @param {{ choose: (preset: Preset) => void, keep: (title: string) => void,
 *   discard: (group: string, title: string) => void }} on what a click asks for
 */
export function presetMenu(on) {
  /** @type {PresetGroup[]} */
  let groups = [];
  let problem = "";
  const select = make("select", { id: "preset", onchange: () => {
    const preset = groups.flatMap((group) => group.presets).find((item) => item.key === select.value);
    if (preset) on.choose(preset);
  } });
  const note = make("p", { class: "note", "aria-live": "polite" });
  const name = make("input", { id: "preset-name", type: "text", maxlength: "100", autocomplete: "off", placeholder: "Name",
    "aria-label": "Name of the preset", onkeydown: (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter") keep();
      if (event.key === "Escape") show(false);
    } });
  /** @type {(text: string, id: string, onclick: () => void) => HTMLButtonElement} */
  const link = (text, id, onclick) => make("button", { type: "button", class: "link", id, onclick }, text);
  const saving = make("span", { class: "saving", hidden: true }, name, link("Save", "preset-keep", keep), link("Cancel", "preset-cancel", () => show(false)));
  const save = link("Save these ticks as a preset…", "preset-save", () => show(true));
  const remove = link("Delete this preset", "preset-delete", () => {
    const own = chosen();
    if (own) on.discard(own.group.title, own.preset.title);
  });
  const study = make("details", { class: "study" }, make("summary", {}, "About the study"), make("p", { class: "note" }, STUDY));
  const place = make("div", { class: "presets" }, make("label", { for: "preset" }, "Preset"), select, note,
    make("div", { class: "preset-actions" }, save, saving, remove, study));

  function keep() {
    if (name.value.trim()) on.keep(name.value.trim());
    show(false);
  }

  /** @param {boolean} open whether a name is asked for */
  function show(open) {
    saving.hidden = !open;
    save.hidden = open;
    name.value = "";
    if (open) name.focus();
    else if (saving.contains(document.activeElement)) save.focus();
  }

  function chosen() {
    for (const group of groups) for (const preset of group.presets) if (preset.key === select.value) return { group, preset };
    return null;
  }

  return {
    place,
    /**
     * @param {PresetGroup[]} builtIn
     * @param {PresetGroup[]} own
     * @param {string} why the saved ones cannot be read; empty if they can
     */
    draw(builtIn, own, why) {
      groups = [...builtIn, ...own];
      problem = why;
      select.replaceChildren(make("option", { value: "", disabled: true, hidden: true }, "Your own choice"),
        ...groups.map((group) => make("optgroup", { label: group.title },
          ...group.presets.map((item) => make("option", { value: item.key }, item.title)))));
    },
    /** @param {Map<string, Tick>} ticks show which preset these are */
    paint(ticks) {
      const all = groups.flatMap((group) => group.presets);
      const kept = all.find((item) => item.key === select.value && isPreset(ticks, item));
      const preset = kept ?? all.find((item) => isPreset(ticks, item));
      find(place, "#preset", "select").value = preset ? preset.key : "";
      const own = chosen()?.group.own ?? false;
      note.textContent = problem || (preset ? preset.note : "Your own ticks. A preset replaces them.");
      note.hidden = !note.textContent;
      remove.hidden = !own;
      study.hidden = !chosen()?.group.title.startsWith("The study");
    },
  };
}
