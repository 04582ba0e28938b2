"""One run: its folder, its configuration, its history, and what lists show of it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.common import bounded_files
from trainer.common.bounded_files import DamagedFile
from trainer.common.errors import UserError
from trainer.common.plain_text import one_line
from trainer.common.stored_names import own_names
from trainer.config import validation
from trainer.config.schema import RunConfig
from trainer.planning import scenarios
from trainer.runs import plan_file
from trainer.runs.failures import no_sign_of_life
from trainer.runs.history import ACTIVE, ROWS_LOST, History
from trainer.runs.index import Stamp, stamp_of

MAX_TITLE = 120
MAX_PROBLEM = 2000
"""Characters of what is said about a damaged configuration."""


@dataclass
class Run:
    """One run: its folder, its configuration, its history."""

    folder: Path
    config: RunConfig | None
    """None if this version cannot read config.json; `config_problem` says why."""
    config_problem: str
    history: History
    read: tuple[str, Stamp] = ("", [])
    """File name and stamp of the configuration that `config` was read from."""

    def refresh(self) -> Run:
        """Read new events, and the configuration in use if it is another one."""
        name = self.history.refresh().config
        now = name, stamp_of(f"{self.folder}/{name}")
        if self.read != now:
            self.read = now
            try:
                self.config, self.config_problem = validation.load(self.folder / name), ""
            except UserError as error:
                self.config, self.config_problem = None, f"Its {name} cannot be used: {error}"[:MAX_PROBLEM]
        return self

    @property
    def problem(self) -> str:
        """Why the run cannot be used, as a sentence; empty if it can."""
        return self.history.problem or self.config_problem or self.lock_problem

    @property
    def lock_problem(self) -> str:
        """Why no worker could take the run's lock; empty if one could."""
        try:
            bounded_files.check_regular(self.folder / "lock")
        except DamagedFile as error:
            return error.problem
        except OSError as error:
            return f"Its folder cannot be used: {(error.strerror or str(error)).lower()}."
        return ""

    @property
    def state(self) -> str:
        """The state to show: a run that cannot be used is failed, unless a worker has it."""
        state = self.history.state
        return "failed" if self.problem and state not in ACTIVE else state

    @property
    def message(self) -> str:
        """Why it ended, may be hung or cannot be used, and what of its folder is damaged."""
        return self._message(plan_file.read(self.folder)[1])

    def _message(self, plan_damage: str) -> str:
        history = self.history
        silence = history.silence()
        notes = [
            no_sign_of_life(silence) if silence else self.problem or history.message,
            ROWS_LOST if history.rows_lost else "",
            plan_damage,
        ]
        if history.recorded == "queued" and not self._is_writable():
            notes.append("Its folder cannot be written to, so it does not start.")
        return " ".join(filter(None, notes))

    @property
    def can_start(self) -> bool:
        """Whether it is queued, and a worker can take it."""
        return self.history.recorded == "queued" and not self.problem and self._is_writable()

    def _is_writable(self) -> bool:
        return os.access(self.folder, os.W_OK | os.X_OK)

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def title(self) -> str:
        try:
            with bounded_files.open_regular(self.folder / "title") as file:
                text = file.read(16 * MAX_TITLE).decode(errors="replace")
        except (DamagedFile, OSError):
            text = ""
        if not text.strip() and self.config is not None:
            config = self.config
            text = config.title or scenarios.title_of(config.modules) or describe_ticks(config)
        return one_line(text, MAX_TITLE) or self.id

    @property
    def adapter(self) -> Path:
        """Folder of the newest saved adapter; it exists once there is one."""
        return self.folder / "adapter"

    @property
    def adapter_note(self) -> str:
        """What became of the adapter after training, as a sentence for its model card; empty if nothing did."""
        return ""

    @property
    def has_adapter(self) -> bool:
        return os.path.isdir(self.adapter)  # noqa: PTH112  Path raises where the run's folder cannot be entered

    @property
    def resumes_at(self) -> int:
        """The step that a resumed run continues from; 0 if it starts again."""
        step = self.history.saved
        return step if os.path.isdir(self.folder / "checkpoints" / f"checkpoint-{step}") else 0  # noqa: PTH112

    def plan(self) -> dict[str, Any]:
        """The valid part of plan.json, from when the run was created; `message` says what is damaged."""
        return plan_file.read(self.folder)[0]

    def summary(self) -> dict[str, Any]:
        """The row of `runs --json` and of the page's table."""
        history, (plan, plan_damage) = self.history.refresh(), plan_file.read(self.folder)
        silence = history.silence()
        return {
            "id": self.id,
            "name": self.title,
            "state": self.state,
            "cause": history.cause,
            "message": self._message(plan_damage),
            "silent": round(silence.seconds) if silence else None,
            "unchanged": history.unchanged,
            "model": self.config.model.name if self.config else "",
            "modules": describe_ticks(self.config) if self.config else "",
            "data": describe_data(self.config) if self.config else "",
            "step": history.step,
            "steps": history.steps,
            "loss": history.latest.get("loss"),
            "eval_loss": history.latest.get("eval_loss"),
            "best_eval_loss": history.best_eval_loss,
            "trainable": plan.get("trainable"),
            "adapter_bytes": plan.get("adapter_bytes"),
            "memory_predicted": plan.get("memory_predicted"),
            "memory_measured": int(history.latest["memory"]) if "memory" in history.latest else None,
            "tokens_per_second": history.latest.get("tokens_per_second"),
            "elapsed": history.elapsed(),
            "tokens": history.latest.get("tokens"),
            "created": created(self.id),
        }


def describe_ticks(config: RunConfig) -> str:
    """The ticks in short: `LoRA q_proj, k_proj · full lm_head`."""
    parts = []
    for treatment, title in (("lora", "LoRA"), ("full", "full")):
        names = [tick.name for tick in config.modules if tick.treatment == treatment]
        if names:
            parts.append(f"{title} {', '.join(names)}")
    return " · ".join(parts)


def describe_data(config: RunConfig) -> str:
    """The data in short: files by their own names, a hub data set by its id."""
    return own_names(config.data.path) or config.data.source


def created(run_id: str) -> float:
    """Creation time in seconds since 1970, from the run's id; 0 if that is not a date."""
    try:
        return time.mktime(time.strptime(run_id[:15], "%Y%m%d-%H%M%S"))
    except (ValueError, OverflowError):
        return 0.0
