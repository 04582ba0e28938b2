"""Analyses of models and data that need torch or transformers. Requests and results are JSON.

The command line runs them in its own process, the app in separate ones (`AnalysisProcess`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from trainer.common.errors import UserError, is_out_of_memory
from trainer.common.progress import Progress, ProgressMonitor
from trainer.config import validation
from trainer.config.schema import ModelConfig


class Analysis(Protocol):
    """Answers requests."""

    def call(self, request: str, monitor: ProgressMonitor | None = None, **arguments: Any) -> Any:
        """The result of one of `REQUESTS`. Raises UserError if it fails, Canceled if `monitor` cancels it."""


class LocalAnalysis:
    """Answers in this process."""

    def __init__(self, models_dir: Path, data_dir: Path) -> None:
        self.models_dir, self.data_dir = models_dir, data_dir

    def call(self, request: str, monitor: ProgressMonitor | None = None, **arguments: Any) -> Any:
        progress = (monitor or ProgressMonitor()).progress
        return run(Folders(self.models_dir, self.data_dir, progress), request, arguments)


class Folders:
    """Where a request reads, and where it reports progress."""

    def __init__(self, models_dir: Path, data_dir: Path, progress: Progress) -> None:
        self.models_dir, self.data_dir, self.progress = models_dir, data_dir, progress


class OutOfMemory(UserError):
    """A request needs more memory than there is."""


def run(folders: Folders, request: str, arguments: dict[str, Any]) -> Any:
    """The result of a request. Raises UserError if it fails; OutOfMemory is one."""
    try:
        return REQUESTS[request](folders, **arguments)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        subject = Subject(request, arguments)
        raise OutOfMemory(f"{subject} needs more memory than it may use.", subject.fix, "oom") from error


class Subject:
    """What a request reads, in words."""

    def __init__(self, request: str, arguments: dict[str, Any]) -> None:
        model = str(subject_of(arguments)["model"].get("name", ""))[:100]
        self.fix = "Check the sizes in its config.json, or choose another model."
        self._text = f"Reading the modules of {model}"
        if request == "vocabulary":
            self.fix = "Check its tokenizer.json, or choose another model."
            self._text = f"Reading the tokenizer of {model}"
        elif request != "modules":
            self.fix = "Look for rows or values of an extreme size in the data, or split the file."
            self._text = f"Reading the data with the tokenizer of {model}"

    def __str__(self) -> str:
        return self._text


def subject_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what a request reads: its model, and its data if it reads any."""
    config = arguments.get("config", arguments)
    return {key: config[key] for key in ("model", "data") if key in config}


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
