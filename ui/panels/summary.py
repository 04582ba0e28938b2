"""The summary above Train: what the configuration trains, what it needs, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from trainer.common import formatting
from trainer.common.errors import Issue
from trainer.service.planning import Plan
from ui import form
from ui.components import component
from ui.fix_button import fix_button
from ui.labels import LABELS
from ui.views import HTML

render = HTML.macros("summary.html")


def build(waiting: str) -> gr.HTML:
    """The component that shows the summary."""
    return component("summary.js", "${value}", "summary", value=summary(None, (), waiting=waiting))


def summary(
    plan: Plan | None, issues: Sequence[Issue], refused: bool = False, waiting: str = "", progress: str = ""
) -> Markup:
    """The summary as HTML. `refused`: Train was pressed but did not start. `progress`: of the data check."""
    shown = [(_sentence(issue), fix_button(issue.changes)) for issue in issues]
    return render("summary", plan, _facts(plan) if plan is not None else {}, shown, refused, waiting, progress)


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
        "suggestions": [(f"{issue.problem} {issue.fix}", fix_button(issue.changes)) for issue in plan.suggestions],
        # ticks that match no module of this model have no effect, which the user must know
        "unmatched": [receipt.tick for receipt in plan.receipts if receipt.note.startswith("matches nothing")],
        "warnings": [(f"{issue.problem} {issue.fix}", fix_button(issue.changes)) for issue in plan.warnings],
    }


def _room(plan: Plan) -> str:
    """The device's memory, and the largest batch and length that fit."""
    device = plan.device
    if not device.room:
        return ""
    what = "GPU" if device.is_gpu else "machine"
    state = f" ({what} busy now)" if device.busy else f" free on this {what}" if device.free else f" on this {what}"
    has = formatting.size(device.room) + state
    batch, longest = plan.fits["per_device_train_batch_size"], plan.fits["max_length"]
    options = [f"{batch:,} × {plan.length:,}"] * (batch > 0) + [f"1 × {longest:,}"] * (
        longest > plan.length or not batch
    )
    fits = f"largest that fits: batch {', or '.join(options)}" if batch or longest else "nothing fits"
    return f"{has} · {fits}"


def _checkpoint(plan: Plan) -> str:
    """The format of a quantized checkpoint, and how the run holds it."""
    if not plan.checkpoint:
        return ""
    peak = f" Loading peaks at {formatting.size(plan.loading)}." if plan.loading else ""
    return f"{plan.checkpoint['says']}{peak}"


def _new_rows(plan: Plan) -> str:
    """Which rows of new tokens are trained; they have no tick of their own."""
    return next((f"Trained, too: {report.note}." for report in plan.receipts if report.treatment == "rows"), "")


def _sentence(issue: Issue) -> str:
    name = form.label(issue.field)
    return f"{name}: {issue.problem} {issue.fix}" if name else f"{issue.problem} {issue.fix}".strip()
