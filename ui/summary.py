"""The summary beside Train: what the configuration trains, what it needs, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.errors import Issue
from trainer.plan import Plan
from ui import form, text


def summary(plan: Plan | None, issues: Sequence[Issue], refused: bool = False, waiting: str = "") -> str:
    """The summary as HTML. `refused`: Train was pressed and started nothing."""
    figures = _figures(plan) if plan is not None else f'<p class="quiet">{text.escape(waiting)}</p>'
    lost = _matching_nothing(plan) + _warnings(plan) if plan is not None else ""
    return f'<div class="summary">{figures}{lost}{_issues(issues, refused)}</div>'


def _figures(plan: Plan) -> str:
    items = (
        ("Trainable", text.count(plan.trainable), f"{plan.trainable:,} parameters"),
        ("Share", text.percent(plan.share), f"of {plan.total:,} parameters"),
        ("Adapter", text.size(plan.adapter_bytes), f"{plan.stored:,} numbers in float32"),
    )
    cells = "".join(
        f'<div title="{text.escape(title)}"><dt>{name}</dt><dd>{text.escape(value)}</dd></div>'
        for name, value, title in items
    )
    return f'<dl class="figures">{cells}{_memory(plan)}</dl>'


def _memory(plan: Plan) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{text.escape(name)}</th><td>{text.size(number)}</td></tr>"
        for name, number in plan.memory.items()
        if number
    )
    total = text.size(sum(plan.memory.values()))
    return (
        f'<div class="memory"><dt>Memory</dt><dd><details><summary title="An estimate; open for its parts">'
        f"≈ {total}</summary><table>{rows}</table></details></dd></div>"
    )


def _matching_nothing(plan: Plan) -> str:
    """Ticks that reach no module of this model: they change nothing, and the person must know."""
    names = [receipt.tick for receipt in plan.receipts if receipt.note.startswith("matches nothing")]
    if not names:
        return ""
    verb = "matches" if len(names) == 1 else "match"
    return f'<p class="nothing">{text.escape(", ".join(names))} {verb} nothing in this model.</p>'


def _warnings(plan: Plan) -> str:
    """What trains otherwise than the person may expect, though it can start."""
    return "".join(f'<p class="nothing">{text.escape(f"{w.problem} {w.fix}")}</p>' for w in plan.warnings)


def _issues(issues: Sequence[Issue], refused: bool) -> str:
    if not issues:
        return ""
    number = "one problem" if len(issues) == 1 else f"{len(issues)} problems"
    head = f"Training did not start: {number}." if refused else f"To mend before training: {number}."
    return _list([head, *map(_sentence, issues)], refused)


def _list(lines: Sequence[str], refused: bool = True) -> str:
    items = "".join(f"<li>{text.escape(line)}</li>" for line in lines[1:])
    role = "alert" if refused else "status"
    kind = "issues refused" if refused else "issues"
    return f'<div class="{kind}" role="{role}"><strong>{text.escape(lines[0])}</strong><ul>{items}</ul></div>'


def _sentence(issue: Issue) -> str:
    name = form.label(issue.field)
    return f"{name}: {issue.problem} {issue.fix}" if name else f"{issue.problem} {issue.fix}".strip()
