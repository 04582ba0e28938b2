"""events.jsonl folded into what the page shows: the state of a run, its newest figures, its curves."""

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
"""Bytes of events.jsonl from which on a metrics.f64 that is missing is worth making."""


@dataclass
class History:
    """One run's events, folded. `refresh` reads what is new; the last event of a step wins."""

    folder: Path
    recorded: str = "queued"
    """State as last written; `state` says what is true now."""
    cause: str = ""
    message: str = ""
    unchanged: bool = False
    """Whether training left the adapter as it was at the start; the message says why."""
    worker: str = ""
    """Identity of the process that is to take the lock of a starting run."""
    config: str = "config.json"
    """File of the configuration in use: a run that trains longer gets another one."""
    commit: str = ""
    """Commit of the hub model that the run is pinned to; empty for models of this machine."""
    download: dict[str, Any] = field(default_factory=dict)
    """The latest progress of a download: files, of, bytes, total, speed."""
    steps: int = 0
    """Steps the run will take in all, as its worker counted."""
    examples: int = 0
    created: float = 0.0
    started: float = 0.0
    """Time of the first training step's beginning; 0 before it."""
    changed: float = 0.0
    """Time of the last state event."""
    latest: dict[str, float] = field(default_factory=dict)
    """Newest value of every figure: loss, eval_loss, learning_rate, grad_norm, tokens_per_second, memory, …"""
    best_eval_loss: float | None = None
    train: metrics_file.Table = field(default_factory=metrics_file.Table)
    """Figures of the training steps."""
    evals: metrics_file.Table = field(default_factory=metrics_file.Table)
    log: list[str] = field(default_factory=list)
    version: int = 0
    """Grows with every event read: equal versions draw equal pictures."""
    _offset: int = 0
    _reading: Any = field(default_factory=threading.Lock)

    def refresh(self) -> History:
        """Read what is new. A long run's figures come from metrics.f64."""
        path = self.folder / "events.jsonl"
        with self._reading:
            if self._offset == 0:
                self._take_figures(path)
            new, self._offset = event_log.read(path, self._offset)
            self._fold_all(new)
        return self

    def _take_figures(self, path: Path) -> None:
        """Fold what metrics.f64 knows, and the other events, which stand between."""
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
            return  # it lacks some: the whole truth is in events.jsonl
        self._fold_all(others)
        for part in metrics_file.chunks(rows):
            self._add_figures(part)
        self._take_newest(rows[-metrics_file.CHUNK :])
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
            self._take_newest(np.array(rows))
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

    def _take_newest(self, rows: np.ndarray) -> None:
        is_eval = rows[:, metrics_file.AT["eval"]] == 1
        self.latest |= metrics_file.newest(rows[is_eval]) | metrics_file.newest(rows[~is_eval])
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
        """One of the states of DESIGN: what was recorded, unless its worker is gone. No clock is asked."""
        if self.recorded not in ACTIVE or file_locks.holder(self.folder / "lock") is not None:
            return self.recorded
        coming = self.recorded == "starting" and file_locks.alive(self.worker)
        self.refresh()  # it may have written its end before it let go of the lock, or taken it just now
        if self.recorded not in ACTIVE or coming or file_locks.holder(self.folder / "lock") is not None:
            return self.recorded
        return "interrupted"

    @property
    def step(self) -> int:
        return int(self.latest.get("step", 0))

    def elapsed(self) -> float:
        """Seconds of training so far, the pauses of a stopped run left out."""
        return float(self.latest.get("elapsed", 0.0))

    def remaining(self) -> float | None:
        """Seconds still to go at the pace so far; None before the first step."""
        if not self.steps or not self.step or not self.elapsed():
            return None
        return self.elapsed() / self.step * max(self.steps - self.step, 0)


def _numbers(event: event_log.Event) -> dict[str, float]:
    """The figures of a download; empty where they are none."""
    found = {key: event.get(key) for key in ("files", "of", "bytes", "total", "speed")}
    numbers = {key: value for key, value in found.items() if isinstance(value, int | float) and 0 <= value < 2**60}
    return numbers if len(numbers) == len(found) else {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
