"""Data: upload, check and report on them, and show examples."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from trainer import demo
from trainer.common.errors import InvalidConfig, Issue
from trainer.common.progress import ProgressMonitor
from trainer.config.schema import RunConfig, is_bundled
from trainer.data.readers.files import is_quick_to_read
from trainer.data.readers.uploads import MAX_UPLOAD_BYTES, check_room, keep_data, make_room, take_upload
from trainer.data.rows.columns import SHAPES
from trainer.models.locations import HUB_ID
from trainer.planning.schedule import Size
from trainer.runs import duration_estimates
from trainer.service.lab import Lab

__all__ = [
    "HUB_ID",
    "MAX_UPLOAD_BYTES",
    "SHAPES",
    "add",
    "check",
    "check_room",
    "example",
    "keep_data",
    "make_room",
    "mask_test",
    "read_if_quick",
    "report",
    "size",
    "take",
]


def add(lab: Lab, file: Path) -> str:
    """Store a copy of a data file. Returns its name for `data.path`. Raises UserError."""
    lab.make_folders()
    return keep_data(file, lab.settings.data_dir)


def take(lab: Lab, upload: Path) -> str:
    """Like `add`, for an upload, which is moved."""
    name = take_upload(upload, lab.settings.data_dir)
    lab.prepare_analysis("data")  # it will be needed to read them
    return name


def check(lab: Lab, config: RunConfig, monitor: ProgressMonitor | None = None) -> None:
    """Raises InvalidConfig if no run can start on the data, Canceled if `monitor` cancels it."""
    if is_bundled(config):
        return
    checked = _read(lab, config, monitor)
    if checked["issues"]:
        raise InvalidConfig([Issue.from_json(issue) for issue in checked["issues"]])


def read_if_quick(lab: Lab, config: RunConfig, monitor: ProgressMonitor | None = None) -> None:
    """Read data that are quick to read, so that `plan` knows the number of steps; others are read on request.

    Raises UserError only if the analysis itself fails.
    """
    if is_quick_to_read(config.data, lab.settings.data_dir) and size(lab, config) is None:
        _read(lab, config, monitor)


def size(lab: Lab, config: RunConfig) -> Size | None:
    """The size of the training data, if known."""
    return Size(demo.examples(), 0.0) if is_bundled(config) else lab.data_sizes.get(read_as(config))


def report(lab: Lab, config: RunConfig, monitor: ProgressMonitor | None = None) -> dict[str, Any]:
    """The report on a configuration's data, with the estimated training time if known.

    Raises UserError only if the analysis itself fails; problems with the data are in `issues`.
    """
    paces = duration_estimates.paces(lab.store, config.model)
    result = lab.data_analysis.call("data_report", monitor, config=config.to_json())
    lab.data_sizes[read_as(config)] = duration_estimates.size_of(result)
    return duration_estimates.with_seconds(result, config, paces)


def example(lab: Lab, config: RunConfig, which: str) -> dict[str, Any]:
    """One training example, token by token: `which` is its number, random, longest or shortest."""
    result: dict[str, Any] = lab.data_analysis.call("data_example", config=config.to_json(), which=which)
    return result


def mask_test(lab: Lab, config: RunConfig, which: str) -> dict[str, Any]:
    """One training example against what a server does, answer by answer: see `trainer.data.masking.mask_test`."""
    result: dict[str, Any] = lab.data_analysis.call("data_mask_test", config=config.to_json(), which=which)
    return result


def read_as(config: RunConfig) -> Hashable:
    """The part of a configuration that determines how many tokens its data have."""
    return config.model, config.data, config.training.max_length, config.training.seed


def _read(lab: Lab, config: RunConfig, monitor: ProgressMonitor | None = None) -> dict[str, Any]:
    """Read the data: their problems, and their size, which is cached."""
    result: dict[str, Any] = lab.data_analysis.call("data_check", monitor, config=config.to_json())
    lab.data_sizes[read_as(config)] = Size(**result["size"]) if result["size"] else None
    return result
