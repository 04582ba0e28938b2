"""The model's modules as checkboxes. The component's value is the selection, and the only place that holds it.

`modules_panel.js` draws what `payload` describes and writes the ticks back as JSON; a tick shows at once, and its
match report follows with the plan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import gradio as gr

from trainer.common import formatting
from trainer.common.errors import UserError
from trainer.config import validation
from trainer.config.schema import Tick
from trainer.service.lab import Lab
from trainer.service.models import GROUP_TITLES, GROUPS, ModuleKind, ModuleMap
from trainer.service.planning import PRESETS, SIX, MatchReport, Scenario, preset_groups
from ui.components import component
from ui.handlers import QUEUED, show_errors
from ui.views import block_picture

TEMPLATE = """<div class="modules-and-picture"><p class="fact"></p><div class="modules" aria-live="off"></div>
<section class="picture" id="block-picture" aria-label="The model's block" hidden></section></div>"""
GROUP_HINTS = {"other": "Norms, routers, recurrent mixers and the rest."}
TOWERS = "Towers"
TOWER_HINT = "Parts that text never runs through, such as vision and audio. They stay as they are."


def build(lab: Lab) -> gr.HTML:
    """The panel, empty until a module map arrives; presets are saved and deleted at once."""
    panel = component(
        "modules_panel.js", TEMPLATE, "modules-panel", value=encode(SIX[4].modules), label="Modules",
        map=json.dumps(reading("demo")), receipts="{}", presets="{}",
    )  # fmt: skip

    def keep(value: str | None, event: gr.EventData) -> Any:
        title = _text(event, "title")
        ticks = validation.loads(f'{{"modules": {value or "[]"}}}').modules
        lab.own_sets.add(PRESETS, title, ticks)
        return gr.update(presets=json.dumps({"own": own_presets(lab), "chosen": title}))

    def discard(event: gr.EventData) -> Any:
        lab.own_sets.remove_scenario(_text(event, "group"), _text(event, "title"))
        return gr.update(presets=json.dumps({"own": own_presets(lab)}))

    panel.keep(show_errors(keep), panel, panel, **QUEUED)
    panel.discard(show_errors(discard), None, panel, **QUEUED)
    return panel


def _text(event: gr.EventData, key: str) -> str:
    """A text of an event's data; empty if a tampered page sends something else."""
    value = event._data.get(key) if isinstance(event._data, dict) else ""
    return value if isinstance(value, str) else ""


def update(content: dict[str, Any], ticks: tuple[Tick, ...] | None = None) -> Any:
    """New content for the panel, and new ticks if given."""
    value: dict[str, Any] = {} if ticks is None else {"value": encode(ticks)}
    return gr.update(map=json.dumps(content), **value)


def encode(ticks: tuple[Tick, ...]) -> str:
    """Ticks as the panel's value."""
    return json.dumps([_short(tick) for tick in ticks])


def reading(model: str) -> dict[str, Any]:
    return {"state": "reading", "title": "Reading the model's modules…", "text": model}


def failed(error: UserError) -> dict[str, Any]:
    return {"state": "failed", "title": error.problem, "text": error.fix}


def own_presets(lab: Lab) -> list[dict[str, Any]]:
    """The custom sets as groups of presets. Raises UserError if their file is damaged."""
    return [_preset_group(title, items, own=True) for title, items in lab.own_sets.all().items()]


def _preset_group(title: str, items: Iterable[Scenario], own: bool = False) -> dict[str, Any]:
    presets = [
        {"key": f"{title}/{item.key}", "title": item.title, "note": item.note,
         "ticks": [_short(tick) for tick in item.modules]}
        for item in items
    ]  # fmt: skip
    return {"title": title, "own": own, "presets": presets}


def _presets(lab: Lab, module_map: ModuleMap) -> dict[str, Any]:
    """The built-in presets for a model, the custom ones, and why those cannot be read."""
    built_in = [_preset_group(title, items) for title, items in preset_groups(module_map).items()]
    try:
        return {"presets": built_in, "own": own_presets(lab), "problem": ""}
    except UserError as error:
        return {"presets": built_in, "own": [], "problem": str(error)}


def payload(lab: Lab, module_map: ModuleMap) -> dict[str, Any]:
    """What the panel draws of a module map: presets, and the groups with their rows."""
    groups = []
    for group in GROUPS:
        kinds = [kind for kind in module_map.group(group) if not kind.tower]
        # fused modules first, as they come before the one that they feed: q, k, v, then o
        parents = sorted((kind for kind in kinds if kind.slice_of is None), key=lambda kind: not _parts(kinds, kind))
        rows = [_row(kind) for parent in parents for kind in (parent, *_parts(kinds, parent))]
        if rows:
            groups.append(
                {"key": group, "title": GROUP_TITLES[group], "hint": GROUP_HINTS.get(group, ""), "rows": rows}
            )
    # their names are long, so the line below repeats the whole name; the hint says why they are disabled
    if towers := [_row(kind) | {"note": kind.name} for kind in module_map.kinds if kind.tower]:
        groups.append({"key": "towers", "title": TOWERS, "hint": TOWER_HINT, "rows": towers})
    return {
        "state": "ready",
        **_presets(lab, module_map),
        "model": module_map.model,
        "fact": _fact(module_map),
        "layers": module_map.layers,
        "groups": groups,
        "picture": block_picture.picture(module_map),
    }


def match_reports(reports: tuple[MatchReport, ...]) -> str:
    """Match reports by tick, as the panel's prop."""
    return json.dumps({report.tick: _match_report(report) for report in reports})


def _match_report(report: MatchReport) -> dict[str, Any]:
    numbers = [re.search(r"\.(\d+)\.", name) for name in report.names]
    layers = [int(number[1]) for number in numbers if number] if report.matched < report.of else None
    return {"note": report.note, "ok": report.matched > 0, "layers": layers}


def _parts(kinds: list[ModuleKind], parent: ModuleKind) -> list[ModuleKind]:
    return [kind for kind in kinds if kind.slice_of == parent.name]


def _row(kind: ModuleKind) -> dict[str, Any]:
    return {
        "name": kind.name,
        "slice_of": kind.slice_of,
        "treatments": list(kind.treatments),
        "first": _default_treatment(kind),
        "reason": kind.reason,
        "size": _size(kind),
        "note": _note(kind),
        "layered": bool(kind.layers),
    }


def _default_treatment(kind: ModuleKind) -> str:
    """The default treatment of a new tick: LoRA; for embeddings and heads, full training, as in the study."""
    order = ("full", "lora") if kind.group == "embedding" else ("lora", "full")
    return next((item for item in order if item in kind.treatments), "")


def _size(kind: ModuleKind) -> str:
    return "tied" if kind.tied_to else formatting.count(kind.parameters)


def _note(kind: ModuleKind) -> str:
    """One line about an unticked kind."""
    if kind.tied_to:
        return f"Tied to {kind.tied_to}: one weight for both."
    if not kind.treatments:
        return kind.reason or "Cannot be trained."
    shape = " × ".join(f"{part:,}" for part in kind.shape)
    number = len(kind.modules)
    where = f"{number} × " if number > 1 else ""
    note = f"{where}{kind.class_name} {shape}"
    return f"Part of {kind.slice_of}, {shape}" if kind.slice_of else note


def _fact(module_map: ModuleMap) -> str:
    layers = f"{module_map.layers} layers" if module_map.layers else ""
    published = f"published in {module_map.checkpoint.title}" if module_map.checkpoint else ""
    parts = (module_map.model_type, f"{formatting.count(module_map.parameters)} parameters", layers, published)
    return " · ".join(part for part in parts if part)


def _short(tick: Tick) -> dict[str, Any]:
    """A tick as JSON, without its empty fields."""
    values = {"name": tick.name, "treatment": tick.treatment}
    for key in ("r", "lora_alpha", "lr", "layers"):
        if getattr(tick, key):
            values[key] = getattr(tick, key)
    return values
