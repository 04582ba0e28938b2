"""A plan and its problems as text for a terminal."""

from __future__ import annotations

from typing import TextIO

from trainer.cli.output import show
from trainer.common.errors import Issue
from trainer.common.formatting import percent, size
from trainer.config import overrides
from trainer.service.planning import Plan


def print_plan(plan: Plan) -> None:
    for receipt in plan.receipts:
        show(f"{receipt.tick:24} {receipt.treatment:5} {receipt.note}")
    show(f"{plan.trainable:,} trainable parameters of {plan.total:,} ({percent(plan.share)})")
    show(f"adapter: {size(plan.adapter_bytes)}")
    if plan.base.bytes:
        show(f"to download first: {size(plan.base.bytes)} in {plan.base.files} files")
    if plan.checkpoint:
        show(plan.checkpoint["says"])
    _print_memory(plan)
    show("performance settings:")
    for name, reason in plan.performance.why.items():
        show(f"  {name:24} {reason}")
    if plan.suggestions:
        show("faster, if you accept other results:")
    for suggestion in plan.suggestions:
        print_issue(suggestion)
    show(f"steps: {plan.steps:,}" if plan.steps else "steps: known once the data has been read")
    if said := plan.samples.sentence():
        show(said)
    for issue in (*plan.warnings, *plan.issues):
        print_issue(issue)


def print_issue(issue: Issue, file: TextIO | None = None) -> None:
    """A problem, and below it the options that fix it."""
    show(issue, file=file)
    for cure in issue.cures:
        show(f"    {overrides.as_options(cure.changes)}  ({cure.result})", file=file)
    if issue.changes and not issue.cures:
        show(f"    {overrides.as_options(issue.changes)}", file=file)


def _print_memory(plan: Plan) -> None:
    """Memory by item, the device's memory, and what would fit."""
    show("estimated peak memory:")
    for name, count in plan.memory.items():
        if count:
            show(f"  {name:24} {size(count):>9}")
    device = plan.device
    has = f", of {size(device.free)} free and {size(device.total)} in all" if device.total else ""
    show(f"  {'total':24} {size(plan.needed):>9}{has} on {device.name}")
    if said := plan.correction.sentence():
        show(f"  {said}")
    if plan.loading:
        show(f"  {'while loading':24} {size(plan.loading):>9}")
    if plan.fits:
        batch, length = plan.fits["per_device_train_batch_size"], plan.fits["max_length"]
        options = [f"batch {batch:,} at length {plan.length:,}"] * (batch > 0)
        options += [f"batch 1 at length {length:,}"] * (length > 0)
        show(f"fits {', or '.join(options)}" if options else "nothing fits")
