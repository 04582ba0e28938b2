"""The summary beside Train: what the configuration trains, what it needs, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from trainer.common import formatting
from trainer.common.errors import Issue, Value
from trainer.common.formatting import number_text
from trainer.service.planning import Plan
from ui import form
from ui.components import component
from ui.labels import CHOICES, LABELS
from ui.views import HTML

render = HTML.macros("summary.html")


def build(waiting: str) -> gr.HTML:
    """The component that shows the summary."""
    return component("summary.js", "${value}", "summary", value=summary(None, (), waiting=waiting))


def summary(
    plan: Plan | None, issues: Sequence[Issue], refused: bool = False, waiting: str = "", progress: str = ""
) -> Markup:
    """The summary as HTML. `refused`: Train was pressed and started nothing. `progress`: of the check of the data."""
    shown = [(_sentence(issue), _cure(issue)) for issue in issues]
    return render("summary", plan, _facts(plan) if plan is not None else {}, shown, refused, waiting, progress)


def _facts(plan: Plan) -> dict[str, Any]:
    """What the plan says besides its figures."""
    return {
        "says": (_room(plan), _checkpoint(plan)),
        "speed": [(LABELS[f"training.{name}"], reason) for name, reason in plan.performance.why.items()],
        # ticks that reach no module of this model: they change nothing, and the person must know
        "unmatched": [receipt.tick for receipt in plan.receipts if receipt.note.startswith("matches nothing")],
        "warnings": [(f"{issue.problem} {issue.fix}", _cure(issue)) for issue in plan.warnings],
    }


def _room(plan: Plan) -> str:
    """What the device has, and the largest batch and length that fit."""
    device = plan.device
    if not device.room:
        return ""
    what = "GPU" if device.is_gpu else "machine"
    state = f" ({what} busy now)" if device.busy else f" free on this {what}" if device.free else f" on this {what}"
    has = formatting.size(device.room) + state
    batch, longest = plan.fits["per_device_train_batch_size"], plan.fits["max_length"]
    found = [f"{batch:,} × {plan.length:,}"] * (batch > 0) + [f"1 × {longest:,}"] * (
        longest > plan.length or not batch
    )
    fits = f"largest that fits: batch {', or '.join(found)}" if batch or longest else "nothing fits"
    return f"{has} · {fits}"


def _checkpoint(plan: Plan) -> str:
    """What a quantized checkpoint is, and how the run holds it."""
    if not plan.checkpoint:
        return ""
    way = f" Loading peaks at {formatting.size(plan.loading)}." if plan.loading else ""
    return f"{plan.checkpoint['says']}{way}"


def _cure(issue: Issue) -> dict[str, str]:
    """A button that fills in the values that solve a problem; empty where none surely do."""
    if not issue.changes:
        return {}
    values = " and ".join(f"{form.label(path).lower()} to {_shown(value)}" for path, value in issue.changes.items())
    return {"changes": json.dumps(dict(issue.changes)), "text": values}


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return number_text(value) if isinstance(value, int | float) else CHOICES.get(str(value), str(value))


def _sentence(issue: Issue) -> str:
    name = form.label(issue.field)
    return f"{name}: {issue.problem} {issue.fix}" if name else f"{issue.problem} {issue.fix}".strip()
