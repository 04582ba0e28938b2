"""Exports adapters and reports as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.common import atomic, file_modes
from trainer.common.errors import UserError
from trainer.common.progress import ProgressMonitor
from trainer.experiments.comparison import Comparison
from trainer.experiments.experiment_file import Experiment
from trainer.experiments.report import document, markdown
from trainer.experiments.report_html import html_report, report_zip
from trainer.export.adapter_zip import adapter_zip
from trainer.service import experiments
from trainer.service.lab import Lab

__all__ = ["adapter", "report", "write_html", "write_markdown"]


def adapter(lab: Lab, run_id: str, folder: Path | None = None, monitor: ProgressMonitor | None = None) -> Path:
    """The adapter of a run as a zip in `folder`, else in the exports folder.

    Raises UserError if none is saved, and Canceled if `monitor` cancels it.
    """
    return adapter_zip(lab.store.get(run_id), folder or lab.settings.exports_dir, monitor)


def report(lab: Lab, names: Sequence[str]) -> Path:
    """The report of a comparison as a zip in the exports folder."""
    return report_zip(lab.store, *experiments.compare(lab, names), lab.settings.exports_dir)


def write_html(lab: Lab, compared: Comparison, experiment: Experiment | None, path: Path) -> None:
    """The report of a comparison as one HTML file. Raises UserError if it cannot be written."""
    _write(path, html_report(lab.store, compared, experiment))


def write_markdown(lab: Lab, compared: Comparison, experiment: Experiment | None, path: Path) -> None:
    """The report of a comparison as Markdown. Raises UserError if it cannot be written."""
    _write(path, markdown(document(lab.store, compared, experiment)))


def _write(path: Path, text: str) -> None:
    try:
        atomic.write(path, text)
        file_modes.make_ordinary(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.", "Name another file.", "disk") from error
