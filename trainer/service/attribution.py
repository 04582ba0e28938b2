"""What each module of a run earned: measure it, read it."""

from __future__ import annotations

from trainer.common.device_holder import COMMAND_LINE
from trainer.common.progress import ProgressMonitor
from trainer.execution.attribution_process import Measuring
from trainer.experiments.attribution import (
    Earned,
    EarnedByKind,
    by_kind,
    by_layer,
    cells,
    seconds,
    sentences,
    share_text,
    to_json,
)
from trainer.runs import attribution
from trainer.runs.attribution import Attribution
from trainer.service.lab import Lab

__all__ = [
    "Attribution",
    "Earned",
    "EarnedByKind",
    "Measuring",
    "by_kind",
    "by_layer",
    "cells",
    "estimate",
    "measure_here",
    "read",
    "sentences",
    "share_text",
    "start",
    "state",
    "stop",
    "to_json",
]


def measure_here(lab: Lab, run_id: str, monitor: ProgressMonitor) -> Attribution:
    """Measure a run in this process. Raises UserError if that is not possible."""
    from trainer.execution.attribution import attribute

    run = lab.store.get(run_id)
    folders = lab.settings.models_dir.resolve(), lab.settings.data_dir.resolve()
    return attribute(run, *folders, COMMAND_LINE, monitor.progress)


def start(lab: Lab, run_id: str) -> None:
    """Start measuring a run in a process of its own. Raises UserError if that is not possible."""
    lab.attributions.start(lab.store.get(run_id))


def stop(lab: Lab, run_id: str) -> None:
    """Stop measuring a run, if it is being measured."""
    lab.attributions.stop(lab.store.get(run_id).id)


def state(lab: Lab, run_id: str) -> Measuring:
    """How far the measurement of a run is."""
    return lab.attributions.state(lab.store.get(run_id).id)


def estimate(lab: Lab, run_id: str) -> float | None:
    """About how many seconds measuring a run takes once its model is loaded; None if that is unknown."""
    run = lab.store.get(run_id)
    kinds = sum(1 for receipt in run.plan().get("receipts", []) if receipt.get("matched"))
    return None if run.config is None else seconds(run.history, run.config.training, kinds)


def read(lab: Lab, run_id: str) -> Attribution | None:
    """A run's newest measurement; None if there is none, or the adapter has been trained on since."""
    run = lab.store.get(run_id)
    found = attribution.read(run.folder)
    return found if found is not None and found.step == run.history.step else None
