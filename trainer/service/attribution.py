"""What each module of a run earned, and what its adapter loses when it is cut down: measure, read, export."""

from __future__ import annotations

from pathlib import Path

from trainer.common.device_holder import COMMAND_LINE
from trainer.common.errors import UserError
from trainer.common.progress import ProgressMonitor
from trainer.execution import measurement
from trainer.execution.measurement import ATTRIBUTION, CUT_DOWN
from trainer.execution.measurement_process import Measuring
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
from trainer.experiments.cut_down import CutLevel, cut_sentences, cut_to_json, levels
from trainer.export.cut_adapter import cut_adapter_zip
from trainer.runs import attribution, cut_down
from trainer.runs.attribution import Attribution
from trainer.runs.cut_down import CutDown
from trainer.service.lab import Lab

__all__ = [
    "ATTRIBUTION",
    "CUT_DOWN",
    "Attribution",
    "CutDown",
    "CutLevel",
    "Earned",
    "EarnedByKind",
    "Measuring",
    "by_kind",
    "by_layer",
    "cells",
    "cut_sentences",
    "cut_to_json",
    "estimate",
    "export_cut",
    "levels",
    "measure_here",
    "read",
    "read_cut_down",
    "sentences",
    "share_text",
    "start",
    "state",
    "stop",
    "to_json",
]


def measure_here(lab: Lab, task: str, run_id: str, monitor: ProgressMonitor) -> None:
    """Measure a run in this process: ATTRIBUTION or CUT_DOWN. Raises UserError if that is not possible."""
    folders = lab.settings.models_dir.resolve(), lab.settings.data_dir.resolve()
    measurement.measure(task, lab.store.get(run_id), measurement.Place(*folders, COMMAND_LINE), monitor.progress)


def start(lab: Lab, task: str, run_id: str) -> None:
    """The same in a process of its own, which this starts. Raises UserError if that is not possible."""
    lab.measurements.start(task, lab.store.get(run_id))


def stop(lab: Lab, run_id: str) -> None:
    """Stop measuring a run, if it is being measured."""
    lab.measurements.stop(lab.store.get(run_id).id)


def state(lab: Lab, run_id: str) -> Measuring:
    """How far the measurement of a run is."""
    return lab.measurements.state(lab.store.get(run_id).id)


def estimate(lab: Lab, run_id: str) -> float | None:
    """About how many seconds ATTRIBUTION takes once the run's model is loaded; None if that is unknown."""
    run = lab.store.get(run_id)
    kinds = sum(1 for receipt in run.plan().get("receipts", []) if receipt.get("matched"))
    return None if run.config is None else seconds(run.history, run.config.training, kinds)


def read(lab: Lab, run_id: str) -> Attribution | None:
    """What the modules of a run earned; None if that is not measured, or its adapter has been trained on since."""
    run = lab.store.get(run_id)
    found = attribution.read(run.folder)
    return found if found is not None and found.step == run.history.step else None


def read_cut_down(lab: Lab, run_id: str) -> CutDown | None:
    """What a run's adapter loses when it is cut down; None in the same cases."""
    run = lab.store.get(run_id)
    found = cut_down.read(run.folder)
    return found if found is not None and found.step == run.history.step else None


def export_cut(
    lab: Lab, run_id: str, kept: float, folder: Path | None = None, monitor: ProgressMonitor | None = None
) -> Path:
    """The adapter of a run, cut down to the share `kept` of its energy, as a zip like any other adapter.

    Raises UserError if it cannot be cut, and Canceled if `monitor` cancels it.
    """
    if not 0 < kept < 1:
        raise UserError(f"{kept:g} is no share of the energy to keep.", "Use one above 0 and below 1: 0.95.", "data")
    return cut_adapter_zip(lab.store.get(run_id), kept, folder or lab.settings.exports_dir, monitor)
