"""A run's history, folded from events.jsonl: its state, latest figures and curves."""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.common import file_locks
from trainer.runs import event_log, metrics_file

ACTIVE = ("starting", "running", "stopping")
ENDED = ("finished", "stopped", "failed", "interrupted")
LOG_LINES = 200
COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIG = re.compile(r"config(-\d+)?\.json")
_LONG = 2**22
"""Bytes of events.jsonl above which a missing metrics.f64 is worth rebuilding."""


@dataclass
class History:
    """One run's events, folded. `refresh` reads new events; the last event of a step wins."""

    folder: Path
    recorded: str = "queued"
    """The state as last written; `state` is the actual one."""
    cause: str = ""
    message: str = ""
    unchanged: bool = False
    """Whether training left the adapter unchanged; the message says why."""
    worker: str = ""
    """Identity of the process that will take the lock of a starting run."""
    config: str = "config.json"
    """Name of the configuration file in use; training longer adds a new one."""
    commit: str = ""
    """Commit of the hub model that the run is pinned to; empty for local models."""
    download: dict[str, Any] = field(default_factory=dict)
    """The latest progress of a download: files, of, bytes, total, speed."""
    steps: int = 0
    """Total number of steps of the run, as counted by its worker."""
    examples: int = 0
    created: float = 0.0
    started: float = 0.0
    """Start time of the first training step; 0 before it."""
    changed: float = 0.0
    """Time of the last state event."""
    latest: dict[str, float] = field(default_factory=dict)
    """Latest value of every figure: loss, eval_loss, learning_rate, grad_norm, tokens_per_second, memory, …"""
    best_eval_loss: float | None = None
    train: metrics_file.Table = field(default_factory=metrics_file.Table)
    """Figures of the training steps."""
    evals: metrics_file.Table = field(default_factory=metrics_file.Table)
    log: list[str] = field(default_factory=list)
    version: int = 0
    """Grows with every event: equal versions have equal content."""
    _offset: int = 0
    _reading: Any = field(default_factory=threading.Lock)

    def refresh(self) -> History:
        """Read new events; the figures of a long run come from metrics.f64."""
        path = self.folder / "events.jsonl"
        with self._reading:
            if self._offset == 0:
                self._load_figures(path)
            new, self._offset = event_log.read(path, self._offset)
            self._fold_all(new)
        return self

    def _load_figures(self, path: Path) -> None:
        """Fold the figures from metrics.f64, and the other events between them from events.jsonl."""
        rows = metrics_file.load(path)
        if _size(path) - (rows[-1, metrics_file.AT["end"]] if len(rows) else 0) > _LONG:
            with file_locks.turn(self.folder / "lock", 0) as ours, contextlib.suppress(OSError):
                if ours:
                    metrics_file.rebuild(path)
                    rows = metrics_file.load(path)
        if not len(rows):
            return
        others = [event for part in metrics_file.between(path, rows) for event in event_log.parse(part)]
        if any(event["type"] in metrics_file.KINDS for event in others):
            return  # it is incomplete: read all of events.jsonl instead
        self._fold_all(others)
        for part in metrics_file.chunks(rows):
            self._add_figures(part)
        self._update_latest(rows[-metrics_file.CHUNK :])
        self.version += len(rows)
        self._offset = int(rows[-1, metrics_file.AT["end"]])

    def _fold_all(self, new: list[event_log.Event]) -> None:
        rows = []
        for event in new:
            row = metrics_file.row_of(event, 0, 0)
            if row is not None:
                rows.append(row)
            elif event["type"] == "state":
                self._fold_state(event)
            elif event["type"] == "base" and COMMIT.fullmatch(str(event.get("commit"))):
                self.commit = event["commit"]
            elif event["type"] == "download":
                self.download = _numbers(event)
            elif event["type"] == "log":
                self.log = [*self.log, str(event.get("text", ""))][-LOG_LINES:]
        if rows:
            self._add_figures(np.array(rows))
            self._update_latest(np.array(rows))
        self.version += len(new)

    def _add_figures(self, rows: np.ndarray) -> None:
        is_eval = rows[:, metrics_file.AT["eval"]] == 1
        self.train.add(rows[~is_eval])
        self.evals.add(rows[is_eval])
        self.latest["step"] = max(rows[:, metrics_file.AT["step"]].max(), self.latest.get("step", 0))
        losses = rows[is_eval, metrics_file.AT["eval_loss"]]
        losses = losses[np.isfinite(losses)]
        if len(losses):
            self.best_eval_loss = min(float(losses.min()), self.best_eval_loss or float("inf"))

    def _update_latest(self, rows: np.ndarray) -> None:
        is_eval = rows[:, metrics_file.AT["eval"]] == 1
        self.latest |= metrics_file.latest_values(rows[is_eval]) | metrics_file.latest_values(rows[~is_eval])
        self.latest["time"] = float(rows[-1, metrics_file.AT["time"]])

    def _fold_state(self, event: event_log.Event) -> None:
        moment = event["time"] if isinstance(event.get("time"), float) else 0.0
        self.recorded = str(event.get("state"))
        self.download = {}
        self.cause = str(event.get("cause") or "")
        self.message = str(event.get("message") or "")
        self.unchanged = event.get("unchanged") is True
        self.worker = str(event.get("worker") or "")
        self.changed = moment
        self.created = self.created or moment
        if isinstance(event.get("steps"), int) and 0 <= event["steps"] < 2**53:
            self.steps = event["steps"]
        if isinstance(event.get("examples"), int) and 0 <= event["examples"] < 2**53:
            self.examples = event["examples"]
        if CONFIG.fullmatch(str(event.get("config"))):
            self.config = event["config"]
        if self.recorded == "running" and not self.started:
            self.started = moment

    @property
    def state(self) -> str:
        """The recorded state, or `interrupted` if the worker is gone. Does not depend on the clock."""
        if self.recorded not in ACTIVE or file_locks.holder(self.folder / "lock") is not None:
            return self.recorded
        starting = self.recorded == "starting" and file_locks.alive(self.worker)
        self.refresh()  # it may have recorded its end before releasing the lock, or just taken the lock
        if self.recorded not in ACTIVE or starting or file_locks.holder(self.folder / "lock") is not None:
            return self.recorded
        return "interrupted"

    @property
    def step(self) -> int:
        return int(self.latest.get("step", 0))

    def elapsed(self) -> float:
        """Seconds of training so far, without the pauses of a stopped run."""
        return float(self.latest.get("elapsed", 0.0))

    def remaining(self) -> float | None:
        """Estimated seconds left; None before the first step."""
        if not self.steps or not self.step or not self.elapsed():
            return None
        return self.elapsed() / self.step * max(self.steps - self.step, 0)


def _numbers(event: event_log.Event) -> dict[str, float]:
    """The figures of a download event; empty if invalid."""
    values = {key: event.get(key) for key in ("files", "of", "bytes", "total", "speed")}
    numbers = {key: value for key, value in values.items() if isinstance(value, int | float) and 0 <= value < 2**60}
    return numbers if len(numbers) == len(values) else {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
