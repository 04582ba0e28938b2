"""Analyses of models and data that need torch or transformers. Requests and results are JSON.

The command line runs them in its own process, the app in separate ones (`AnalysisProcess`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from trainer.common.progress import Progress, ProgressMonitor
from trainer.config import validation
from trainer.config.schema import ModelConfig


class Analysis(Protocol):
    """Answers requests."""

    def start(self) -> None:
        """Start in advance, so that the first request does not wait for imports."""

    def call(self, request: str, monitor: ProgressMonitor | None = None, **arguments: Any) -> Any:
        """The result of one of `REQUESTS`. Raises UserError if it fails, Canceled if `monitor` cancels it."""

    def close(self) -> None:
        """Stop answering requests."""


class LocalAnalysis:
    """Answers in this process."""

    def __init__(self, models_dir: Path, data_dir: Path) -> None:
        self.models_dir, self.data_dir = models_dir, data_dir

    def start(self) -> None:
        """Nothing to start."""

    def call(self, request: str, monitor: ProgressMonitor | None = None, **arguments: Any) -> Any:
        progress = (monitor or ProgressMonitor()).progress
        return REQUESTS[request](Folders(self.models_dir, self.data_dir, progress), **arguments)

    def close(self) -> None:
        """Nothing to close."""


class Folders:
    """Where a request reads, and where it reports progress."""

    def __init__(self, models_dir: Path, data_dir: Path, progress: Progress) -> None:
        self.models_dir, self.data_dir, self.progress = models_dir, data_dir, progress


def _modules(folders: Folders, model: dict[str, Any]) -> dict[str, Any]:
    from trainer.models.discovery.discover import discover
    from trainer.models.locations import load_config

    config = ModelConfig(**model)
    return discover(load_config(config, folders.models_dir), config.name).to_json()


def _vocabulary(folders: Folders, model: dict[str, Any]) -> list[str]:
    from trainer.models.locations import load_tokenizer

    return list(load_tokenizer(ModelConfig(**model), folders.models_dir).get_vocab())


def _data_report(folders: Folders, config: dict[str, Any]) -> dict[str, Any]:
    from trainer.data.inspection import data_report

    return data_report(validation.from_json(config), folders.models_dir, folders.data_dir, folders.progress)


def _data_check(folders: Folders, config: dict[str, Any]) -> dict[str, Any]:
    from trainer.data.inspection import data_check

    issues, size = data_check(validation.from_json(config), folders.models_dir, folders.data_dir, folders.progress)
    return {"issues": [issue.to_json() for issue in issues], "size": asdict(size) if size else None}


def _data_example(folders: Folders, config: dict[str, Any], which: str) -> dict[str, Any]:
    from trainer.data.inspection import data_example

    return data_example(validation.from_json(config), which, folders.models_dir, folders.data_dir)


def _data_mask_test(folders: Folders, config: dict[str, Any], which: str) -> dict[str, Any]:
    from trainer.data.inspection import data_mask_test

    return data_mask_test(validation.from_json(config), which, folders.models_dir, folders.data_dir)


REQUESTS: dict[str, Callable[..., Any]] = {
    "modules": _modules,
    "vocabulary": _vocabulary,
    "data_report": _data_report,
    "data_check": _data_check,
    "data_example": _data_example,
    "data_mask_test": _data_mask_test,
}
