"""The summary beside Train: what the configuration trains, what it needs, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import gradio as gr

from trainer.common import formatting
from trainer.common.errors import Issue, Value
from trainer.common.formatting import number_text
from trainer.service.planning import Plan
from ui import form
from ui.components import component
from ui.labels import CHOICES, LABELS
from ui.views import text


def build(waiting: str) -> gr.HTML:
    """The component that shows the summary."""
    return component("summary.js", "${value}", "summary", value=summary(None, (), waiting=waiting))


def summary(
    plan: Plan | None, issues: Sequence[Issue], refused: bool = False, waiting: str = "", progress: str = ""
) -> str:
    """The summary as HTML. `refused`: Train was pressed and started nothing. `progress`: of the check of the data."""
    figures = _figures(plan) if plan is not None else f'<p class="quiet">{text.escape(waiting)}</p>'
    lost = _download(plan) + _matching_nothing(plan) + _warnings(plan) if plan is not None else ""
    return f'<div class="summary">{figures}{lost}{_issues(issues, refused)}{progress}</div>'


def _figures(plan: Plan) -> str:
    items = (
        ("Trainable", formatting.count(plan.trainable), f"{plan.trainable:,} parameters"),
        ("Share", formatting.percent(plan.share), f"of {plan.total:,} parameters"),
        ("Adapter", formatting.size(plan.adapter_bytes), f"{plan.stored:,} numbers in float32"),
    )
    cells = "".join(
        f'<div title="{text.escape(title)}"><dt>{name}</dt><dd>{text.escape(value)}</dd></div>'
        for name, value, title in items
    )
    return f'<dl class="figures">{cells}{_memory(plan)}</dl>{_room(plan)}{_checkpoint(plan)}{_speed(plan)}'


def _memory(plan: Plan) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{text.escape(name)}</th><td>{formatting.size(number)}</td></tr>"
        for name, number in plan.memory.items()
        if number
    )
    short = " short" if 0 < plan.device.room < plan.needed else ""
    return (
        f'<div class="memory{short}"><dt>Memory</dt><dd><details>'
        '<summary title="At the peak, as an estimate; open for its parts">'
        f"≈ {formatting.size(plan.needed)}</summary><table>{rows}</table></details></dd></div>"
    )


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
    return f'<p class="room">{text.escape(has)} · {text.escape(fits)}</p>'


def _checkpoint(plan: Plan) -> str:
    """What a quantized checkpoint is, and how the run holds it."""
    if not plan.checkpoint:
        return ""
    way = f" Loading peaks at {formatting.size(plan.loading)}." if plan.loading else ""
    return f'<p class="room">{text.escape(plan.checkpoint["says"] + way)}</p>'


def _speed(plan: Plan) -> str:
    """What was picked to make the run fast, and why."""
    rows = "".join(
        f"<tr><th scope='row'>{text.escape(LABELS[f'training.{name}'])}</th><td>{text.escape(reason)}</td></tr>"
        for name, reason in plan.performance.why.items()
    )
    return f'<details class="speed"><summary>Picked for speed</summary><table>{rows}</table></details>'


def _download(plan: Plan) -> str:
    """What comes from the hub before the training."""
    if not plan.base.bytes:
        return ""
    files = "one file" if plan.base.files == 1 else f"{plan.base.files} files"
    return f'<p class="quiet">The model is downloaded first: {formatting.size(plan.base.bytes)} in {files}.</p>'


def _matching_nothing(plan: Plan) -> str:
    """Ticks that reach no module of this model: they change nothing, and the person must know."""
    names = [receipt.tick for receipt in plan.receipts if receipt.note.startswith("matches nothing")]
    if not names:
        return ""
    verb = "matches" if len(names) == 1 else "match"
    return f'<p class="nothing">{text.escape(", ".join(names))} {verb} nothing in this model.</p>'


def _warnings(plan: Plan) -> str:
    """What trains otherwise than the person may expect, though it can start."""
    return "".join(
        f'<p class="nothing">{text.escape(f"{warning.problem} {warning.fix}")} {_cure(warning)}</p>'
        for warning in plan.warnings
    )


def _issues(issues: Sequence[Issue], refused: bool) -> str:
    if not issues:
        return ""
    number = "one problem" if len(issues) == 1 else f"{len(issues)} problems"
    head = f"Training did not start: {number}." if refused else f"Fix before training: {number}."
    items = "".join(f"<li>{text.escape(_sentence(issue))} {_cure(issue)}</li>" for issue in issues)
    role = "alert" if refused else "status"
    kind = "issues refused" if refused else "issues"
    return f'<div class="{kind}" role="{role}"><strong>{text.escape(head)}</strong><ul>{items}</ul></div>'


def _cure(issue: Issue) -> str:
    """A button that fills in the values that cure a problem; empty where none surely do."""
    if not issue.changes:
        return ""
    values = " and ".join(f"{form.label(path).lower()} to {_shown(value)}" for path, value in issue.changes.items())
    changes = text.escape(json.dumps(dict(issue.changes)))
    return f'<button type="button" class="cure" data-changes="{changes}">Set {text.escape(values)}</button>'


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return number_text(value) if isinstance(value, int | float) else CHOICES.get(str(value), str(value))


def _sentence(issue: Issue) -> str:
    name = form.label(issue.field)
    return f"{name}: {issue.problem} {issue.fix}" if name else f"{issue.problem} {issue.fix}".strip()
