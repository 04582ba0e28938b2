"""The summary above Train: what the configuration trains, what it needs, and what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup

from trainer.common import formatting
from trainer.common.errors import Issue
from trainer.service.planning import Plan
from ui import form
from ui.components import component
from ui.fix_button import buttons
from ui.labels import LABELS
from ui.views import HTML
from ui.views.data_report import on_page

render = HTML.macros("summary.html")


@dataclass(frozen=True)
class State:
    """What the summary shows."""

    plan: Plan | None = None
    issues: tuple[Issue, ...] = ()
    """What keeps the run from starting."""
    invalid: tuple[str, ...] = ()
    """Fields whose values are invalid, so that the plan is not theirs."""
    refused: bool = False
    """Train was pressed but did not start."""
    waiting: str = ""
    """What a missing plan waits for."""
    progress: str = ""
    """Of the data check."""


def build(waiting: str) -> gr.HTML:
    """The component that shows the summary."""
    return component("summary.js", "${value}", "summary", value=summary(State(waiting=waiting)))


def summary(state: State) -> Markup:
    """The summary as HTML."""
    issues = [(_sentence(issue), buttons(issue)) for issue in state.issues]
    fields: dict[str, str] = {}
    for issue in state.issues:
        fields.setdefault(issue.field.partition("[")[0], on_page(f"{issue.problem} {issue.fix}").strip())
    facts = _facts(state.plan) if state.plan is not None and not state.invalid else {}
    named = list(dict.fromkeys(_name(field) for field in state.invalid))
    return render("summary", state, facts, issues, json.dumps(fields), named)


def _name(field: str) -> str:
    """What the page calls a field: its label, or the tick and what is set for it."""
    return form.label(field) or ", ".join(field.split(".")[1:]) or "the ticks"


def _facts(plan: Plan) -> dict[str, Any]:
    """What the plan says besides its numbers."""
    return {
        "notes": (
            _room(plan),
            plan.correction.sentence(),
            _checkpoint(plan),
            _new_rows(plan),
            plan.samples.sentence(),
        ),
        "speed": [(LABELS[f"training.{name}"], reason) for name, reason in plan.performance.why.items()],
        "suggestions": [(on_page(f"{issue.problem} {issue.fix}"), buttons(issue)) for issue in plan.suggestions],
        # ticks that match no module of this model have no effect, which the user must know
        "unmatched": [receipt.tick for receipt in plan.receipts if receipt.note.startswith("matches nothing")],
        "warnings": [(on_page(f"{issue.problem} {issue.fix}"), buttons(issue)) for issue in plan.warnings],
    }


def _room(plan: Plan) -> str:
    """The device's memory, and the largest batch and length that fit."""
    device = plan.device
    if not device.room:
        return ""
    free = " free" if device.free and not device.busy else ""
    has = f"{formatting.size(device.room)} {'GPU memory' if device.is_gpu else 'RAM'}{free}."
    batch, longest = plan.fits["per_device_train_batch_size"], plan.fits["max_length"]
    options = [f"batch {batch:,} at length {plan.length:,}"] * (batch > 0)
    options += [f"batch 1 at length {longest:,}"] * (longest > plan.length or (longest > 0 and not batch))
    return f"{has} Fits {', or '.join(options)}." if options else f"{has} Nothing fits."


def _checkpoint(plan: Plan) -> str:
    """The format of a quantized checkpoint, and how the run holds it."""
    if not plan.checkpoint:
        return ""
    peak = f" Loading peaks at {formatting.size(plan.loading)}." if plan.loading else ""
    return f"{plan.checkpoint['says']}{peak}"


def _new_rows(plan: Plan) -> str:
    """Which rows of new tokens are trained; they have no tick of their own."""
    return next((f"Also trained: {report.note}." for report in plan.receipts if report.treatment == "rows"), "")


def _sentence(issue: Issue) -> str:
    name, text = form.label(issue.field), on_page(f"{issue.problem} {issue.fix}").strip()
    return f"{name}: {text}" if name else text
