"""Data: upload them, check them, report on them, show single examples."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from trainer import demo
from trainer.common.errors import InvalidConfig, Issue
from trainer.common.progress import ProgressMonitor
from trainer.config.schema import RunConfig, is_bundled
from trainer.data.columns import SHAPES
from trainer.data.readers.files import is_quick_to_read
from trainer.data.readers.uploads import MAX_UPLOAD_BYTES, check_room, keep_data, take_upload
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
    "read_if_quick",
    "report",
    "size",
    "take",
]


def add(lab: Lab, file: Path) -> str:
    """Keep a copy of a data file. Returns the name by which `data.path` knows it. Raises UserError."""
    lab.make_folders()
    return keep_data(file, lab.settings.data_dir)


def take(lab: Lab, upload: Path) -> str:
    """As `add`, for an upload, which is gone afterwards."""
    name = take_upload(upload, lab.settings.data_dir)
    lab.data_analysis.start()  # it will be asked what is in it
    return name


def check(lab: Lab, config: RunConfig, monitor: ProgressMonitor | None = None) -> None:
    """Raises InvalidConfig if no run can start on the data; Canceled, if `monitor` was."""
    if is_bundled(config):
        return
    found = _read(lab, config, monitor)
    if found["issues"]:
        raise InvalidConfig([Issue(**issue) for issue in found["issues"]])


def read_if_quick(lab: Lab, config: RunConfig, monitor: ProgressMonitor | None = None) -> None:
    """Read data that take no time, so that `plan` knows the steps of a run; others are read when asked for.

    Raises UserError only where the analysis cannot answer.
    """
    if is_quick_to_read(config.data, lab.settings.data_dir) and size(lab, config) is None:
        _read(lab, config, monitor)


def size(lab: Lab, config: RunConfig) -> Size | None:
    """How much there is to train on, where that is known."""
    return Size(demo.examples(), 0.0) if is_bundled(config) else lab.data_sizes.get(read_as(config))


def report(lab: Lab, config: RunConfig, monitor: ProgressMonitor | None = None) -> dict[str, Any]:
    """The report on a configuration's data, with the seconds that its training takes where they are known.

    Raises UserError only where the analysis cannot answer; what is wrong with the data stands in `issues`.
    """
    paces = duration_estimates.paces(lab.store, config.model)
    found = lab.data_analysis.call("data_report", monitor, config=config.to_json())
    lab.data_sizes[read_as(config)] = duration_estimates.size_of(found)
    return duration_estimates.with_seconds(found, config, paces)


def example(lab: Lab, config: RunConfig, which: str) -> dict[str, Any]:
    """One training example, token by token: `which` is its number, random, longest or shortest."""
    found: dict[str, Any] = lab.data_analysis.call("data_example", config=config.to_json(), which=which)
    return found


def read_as(config: RunConfig) -> Hashable:
    """What of a configuration decides how many tokens its data are."""
    return config.model, config.data, config.training.max_length, config.training.seed


def _read(lab: Lab, config: RunConfig, monitor: ProgressMonitor | None = None) -> dict[str, Any]:
    """Read the data: what is wrong with them, and their size, which is remembered."""
    found: dict[str, Any] = lab.data_analysis.call("data_check", monitor, config=config.to_json())
    lab.data_sizes[read_as(config)] = Size(**found["size"]) if found["size"] else None
    return found
