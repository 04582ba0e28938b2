"""A plan and its problems as text for a terminal."""

from __future__ import annotations

from typing import TextIO

from trainer.common.errors import Issue
from trainer.common.formatting import percent, size
from trainer.config import overrides
from trainer.service.planning import Plan


def print_plan(plan: Plan) -> None:
    for receipt in plan.receipts:
        print(f"{receipt.tick:24} {receipt.treatment:5} {receipt.note}")
    print(f"{plan.trainable:,} of {plan.total:,} parameters train ({percent(plan.share)})")
    print(f"adapter: {size(plan.adapter_bytes)}")
    if plan.base.bytes:
        print(f"to download first: {size(plan.base.bytes)} in {plan.base.files} files")
    if plan.checkpoint:
        print(plan.checkpoint["says"])
    _print_memory(plan)
    print("performance settings:")
    for name, reason in plan.performance.why.items():
        print(f"  {name:24} {reason}")
    if plan.suggestions:
        print("faster, if you accept other results:")
    for suggestion in plan.suggestions:
        print_issue(suggestion)
    print(f"steps: {plan.steps:,}" if plan.steps else "steps: known once the data has been read")
    for issue in (*plan.warnings, *plan.issues):
        print_issue(issue)


def print_issue(issue: Issue, file: TextIO | None = None) -> None:
    """A problem, and below it the options that fix it."""
    print(issue, file=file)
    if issue.changes:
        print(f"    {overrides.as_options(issue.changes)}", file=file)


def _print_memory(plan: Plan) -> None:
    """Memory by item, the device's memory, and what would fit."""
    print("estimated peak memory:")
    for name, count in plan.memory.items():
        if count:
            print(f"  {name:24} {size(count):>9}")
    device = plan.device
    has = f", of {size(device.free)} free and {size(device.total)} in all" if device.total else ""
    print(f"  {'total':24} {size(plan.needed):>9}{has} on {device.name}")
    if said := plan.correction.sentence():
        print(f"  {said}")
    if plan.loading:
        print(f"  {'while loading':24} {size(plan.loading):>9}")
    if plan.fits:
        batch, length = plan.fits["per_device_train_batch_size"], plan.fits["max_length"]
        options = [f"batch {batch} at this max_length"] * (batch > 0) + [f"max_length {length} at batch 1"] * (
            length > 0
        )
        print(f"largest that fits: {', '.join(options)}" if options else "nothing fits")
