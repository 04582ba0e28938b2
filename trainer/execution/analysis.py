"""What can be asked about a model or its data that needs torch or transformers. Requests and answers are JSON.

The command line answers them in its own process; the app leaves them to processes of their own (`AnalysisProcess`).
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
    """Answers requests, wherever it runs."""

    def start(self) -> None:
        """Get ready, so that the first request does not wait for imports."""

    def call(self, request: str, monitor: ProgressMonitor | None = None, **arguments: Any) -> Any:
        """The answer to one of `REQUESTS`. Raises UserError where there is none; Canceled, if `monitor` was."""

    def close(self) -> None:
        """End it; no request is answered any more."""


class LocalAnalysis:
    """Answers in this process."""

    def __init__(self, models_dir: Path, data_dir: Path) -> None:
        self.models_dir, self.data_dir = models_dir, data_dir

    def start(self) -> None:
        """Nothing to do: requests are answered in this process."""

    def call(self, request: str, monitor: ProgressMonitor | None = None, **arguments: Any) -> Any:
        progress = (monitor or ProgressMonitor()).progress
        return REQUESTS[request](Folders(self.models_dir, self.data_dir, progress), **arguments)

    def close(self) -> None:
        """Nothing to end."""


class Folders:
    """Where a request reads, and what it tells of its progress."""

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


REQUESTS: dict[str, Callable[..., Any]] = {
    "modules": _modules,
    "vocabulary": _vocabulary,
    "data_report": _data_report,
    "data_check": _data_check,
    "data_example": _data_example,
}
