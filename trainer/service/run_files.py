"""What a run's folder holds, as text to show, copy and download: its configuration in several forms, and its log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

import yaml

from trainer.common.errors import UserError
from trainer.common.redaction import redact
from trainer.config.command_line import train_command
from trainer.config.schema import RunConfig
from trainer.export.training_script import training_script
from trainer.runs import log_file
from trainer.runs.log_file import LogLines
from trainer.runs.run import Run
from trainer.service import models, planning
from trainer.service.lab import Lab

__all__ = ["FORMATS", "LogLines", "configuration", "file_name", "log", "log_text"]

FORMATS: Mapping[str, str] = {
    "yaml": "YAML",
    "json": "JSON",
    "command": "Command line",
    "script": "Python script",
}
"""Forms of a configuration, and their titles."""
ENDINGS = {"yaml": "yaml", "json": "json", "command": "sh", "script": "py"}
TAIL_LINES, FOUND_LINES = 5000, 1000


def configuration(lab: Lab, run_id: str, form: str) -> str:
    """A run's configuration in one of `FORMATS`. Raises UserError if there is none, or the model cannot be read."""
    run = lab.store.get(run_id)
    if run.config is None:
        raise UserError(run.problem, "Choose another run.", "data")
    writers: Mapping[str, Callable[[RunConfig], str]] = {
        "yaml": lambda config: yaml.safe_dump(config.to_json(), sort_keys=False, allow_unicode=True, width=110),
        "json": lambda config: json.dumps(config.to_json(), ensure_ascii=False, indent=2) + "\n",
        "command": lambda config: train_command(config) + "\n",
        "script": lambda config: _script(lab, run, config),
    }
    if form not in writers:
        raise UserError(f"{form[:40]!r} is no form of a configuration.", f"Use {', '.join(writers)}.", "data")
    return redact(writers[form](run.config))


def _script(lab: Lab, run: Run, config: RunConfig) -> str:
    plan, module_map = planning.plan(lab, config), models.module_map(lab, config.model)
    return training_script(config, plan, module_map, run.title)


def file_name(run_id: str, form: str) -> str:
    """The name of a downloaded configuration or, for `log`, of the log."""
    return f"{run_id}.{ENDINGS.get(form, 'log')}"


def log(lab: Lab, run_id: str, text: str, lines: int) -> LogLines:
    """The last lines of a run's log that contain `text`; without one, the last of all. Raises UserError."""
    folder = lab.store.get(run_id).folder
    if text:
        return log_file.search(folder, text, min(lines, FOUND_LINES))
    return log_file.tail(folder, min(lines, TAIL_LINES))


def log_text(lab: Lab, run_id: str) -> Iterator[str]:
    """The whole log of a run, in pieces of whole lines. Raises UserError."""
    return log_file.whole(lab.store.get(run_id).folder)
