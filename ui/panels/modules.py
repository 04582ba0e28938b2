"""The modules of the model as real checkboxes. The selection is the component's value, and lives nowhere else.

`modules_panel.js` draws what `payload` describes and writes the ticks back as JSON; a tick is seen at
once, and its receipt follows with the plan.
"""

from __future__ import annotations

import json
import re
from typing import Any

import gradio as gr

from trainer.common import formatting
from trainer.common.errors import UserError
from trainer.config.schema import Tick
from trainer.service.models import GROUP_TITLES, GROUPS, ModuleKind, ModuleMap
from trainer.service.planning import SIX, Receipt
from ui.components import component
from ui.views import block_picture

TEMPLATE = """<div class="modules-and-picture"><p class="fact"></p><div class="modules" aria-live="off"></div>
<section class="picture" id="block-picture" aria-label="The model's block" hidden></section></div>"""
GROUP_HINTS = {"other": "Norms, routers, recurrent mixers and the rest."}
TOWERS = "Towers"
TOWER_HINT = "What text never runs through, such as vision and audio: it stays as it is."


def build() -> gr.HTML:
    """The panel, empty until a map comes in."""
    return component(
        "modules_panel.js", TEMPLATE, "modules-panel", value=encode(SIX[4].modules), label="Modules",
        map=json.dumps(reading("demo")), receipts="{}",
    )  # fmt: skip


def update(content: dict[str, Any], ticks: tuple[Tick, ...] | None = None) -> Any:
    """New content for the panel, with new ticks where some are given."""
    value: dict[str, Any] = {} if ticks is None else {"value": encode(ticks)}
    return gr.update(map=json.dumps(content), **value)


def encode(ticks: tuple[Tick, ...]) -> str:
    """Ticks as the panel's value."""
    return json.dumps([_short(tick) for tick in ticks])


def reading(model: str) -> dict[str, Any]:
    return {"state": "reading", "title": "Reading the model's modules…", "text": model}


def failed(error: UserError) -> dict[str, Any]:
    return {"state": "failed", "title": error.problem, "text": error.fix}


def payload(module_map: ModuleMap) -> dict[str, Any]:
    """What the panel draws of a map: presets, and the groups with their rows."""
    groups = []
    for group in GROUPS:
        kinds = [kind for kind in module_map.group(group) if not kind.tower]
        # a fused module comes before the one that it feeds: q, k, v, then o
        parents = sorted((kind for kind in kinds if kind.slice_of is None), key=lambda kind: not _parts(kinds, kind))
        rows = [_row(kind) for parent in parents for kind in (parent, *_parts(kinds, parent))]
        if rows:
            groups.append(
                {"key": group, "title": GROUP_TITLES[group], "hint": GROUP_HINTS.get(group, ""), "rows": rows}
            )
    # their names are long, and the hint says why they are off: the line below holds the whole name
    if towers := [_row(kind) | {"note": kind.name} for kind in module_map.kinds if kind.tower]:
        groups.append({"key": "towers", "title": TOWERS, "hint": TOWER_HINT, "rows": towers})
    presets = [
        {"key": item.key, "title": item.title, "note": item.note, "ticks": [_short(tick) for tick in item.modules]}
        for item in SIX
    ]
    return {
        "state": "ready",
        "model": module_map.model,
        "fact": _fact(module_map),
        "layers": module_map.layers,
        "groups": groups,
        "presets": presets,
        "picture": block_picture.picture(module_map),
    }


def receipts(found: tuple[Receipt, ...]) -> str:
    """Receipts by tick, as the panel's prop."""
    return json.dumps({item.tick: _receipt(item) for item in found})


def _receipt(item: Receipt) -> dict[str, Any]:
    numbers = [re.search(r"\.(\d+)\.", name) for name in item.names]
    layers = [int(number[1]) for number in numbers if number] if item.matched < item.of else None
    return {"note": item.note, "ok": item.matched > 0, "layers": layers}


def _parts(kinds: list[ModuleKind], parent: ModuleKind) -> list[ModuleKind]:
    return [kind for kind in kinds if kind.slice_of == parent.name]


def _row(kind: ModuleKind) -> dict[str, Any]:
    return {
        "name": kind.name,
        "slice_of": kind.slice_of,
        "treatments": list(kind.treatments),
        "first": _first_choice(kind),
        "reason": kind.reason,
        "size": _size(kind),
        "note": _note(kind),
        "layered": bool(kind.layers),
    }


def _first_choice(kind: ModuleKind) -> str:
    """What a fresh tick means: LoRA, but embeddings and heads in full, as the study trained them."""
    order = ("full", "lora") if kind.group == "embedding" else ("lora", "full")
    return next((item for item in order if item in kind.treatments), "")


def _size(kind: ModuleKind) -> str:
    return "tied" if kind.tied_to else formatting.count(kind.parameters)


def _note(kind: ModuleKind) -> str:
    """One line about an unticked kind."""
    if kind.tied_to:
        return f"Tied to {kind.tied_to}: one weight for both."
    if not kind.treatments:
        return kind.reason or "Takes no training."
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
    """A tick as JSON, its empty fields left out."""
    values = {"name": tick.name, "treatment": tick.treatment}
    for key in ("r", "lora_alpha", "lr", "layers"):
        if getattr(tick, key):
            values[key] = getattr(tick, key)
    return values
