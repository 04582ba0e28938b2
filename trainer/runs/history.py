"""A run's history, folded from events.jsonl: its state, latest figures and curves."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.common import bounded_files, file_locks, heartbeat
from trainer.common.bounded_files import DamagedFile
from trainer.common.plain_text import visible
from trainer.runs import event_rows, metrics_file
from trainer.runs.event_rows import Event

ACTIVE = ("starting", "running", "stopping")
ENDED = ("finished", "stopped", "failed", "interrupted")
STATES = ("queued", *ACTIVE, *ENDED)
LOG_LINES = 200
MAX_TEXT = 4000
"""Characters of a message or a log line that are kept."""
LONGEST_STEP = 3600.0
"""Seconds; a longer pause between two figures by the clock means that the clock was set."""
LATEST = 2.0**33
"""The latest time that is believed, in the year 2242."""
NO_STATE = "events.jsonl holds no state of this run."
ROWS_LOST = "Some rows of events.jsonl are damaged and left out."
COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIG = re.compile(r"config(-\d+)?\.json")
_LONG = 2**22
"""Bytes of events.jsonl above which a missing metrics.f64 is worth rebuilding."""


@dataclass
class History:
    """One run's events, folded. `refresh` reads new events; the last event of a step wins."""

    folder: Path
    recorded: str = "failed"
    """The state as last written, failed if there is none; `state` is the actual one."""
    cause: str = ""
    message: str = NO_STATE
    problem: str = ""
    """Why events.jsonl cannot be read, as a sentence; empty if it can."""
    rows_lost: bool = False
    """Whether rows of events.jsonl are damaged."""
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
    saved: int = 0
    """Step of the newest complete checkpoint; 0 if there is none."""
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
    _read: float = field(default_factory=time.monotonic)
    """When the last figure was read, on a clock that nobody sets."""
    _reading: Any = field(default_factory=threading.Lock)

    def refresh(self) -> History:
        """Read new events; the figures of a long run come from metrics.f64."""
        path = self.folder / "events.jsonl"
        with self._reading:
            try:
                with event_rows.open_events(path) as file:
                    if bounded_files.size(path) < self._offset:
                        self._forget()
                    if self._offset == 0:
                        self._load_figures(path, file)
                    for batch in self._batches(event_rows.rows(file, self._offset)):
                        self._fold_all(batch)
                self.problem = ""
            except OSError as error:
                self.problem = f"events.jsonl cannot be read: {(error.strerror or str(error)).lower()}."
            except DamagedFile as error:
                self.problem = error.problem
        return self

    def _batches(self, rows: Iterator[tuple[bytes, int]]) -> Iterator[list[Event]]:
        """The events of rows, a chunk at a time, and the position after them as the new offset."""
        while part := list(islice(rows, metrics_file.CHUNK)):
            self._offset = part[-1][1]
            yield self._parsed(row for row, _ in part)

    def _forget(self) -> None:
        """Start again: the file was replaced by a shorter one."""
        fresh = History(self.folder, version=self.version + 1, _reading=self._reading)
        self.__dict__.update(fresh.__dict__)

    def _parsed(self, rows: Iterable[bytes]) -> list[Event]:
        """The events of rows; what is lost is remembered."""
        events = []
        for row in rows:
            event = event_rows.parse(row)
            if event is not None:
                events.append(event)
            elif row.strip():
                self.rows_lost = True
        return events

    def _load_figures(self, path: Path, file: BinaryIO) -> None:
        """Fold the figures from metrics.f64, and the other events between them from events.jsonl."""
        rows = metrics_file.load(path)
        if bounded_files.size(path) - (rows[-1, metrics_file.AT["end"]] if len(rows) else 0) > _LONG:
            with contextlib.suppress(OSError, DamagedFile), file_locks.turn(self.folder / "lock", 0) as ours:
                if ours:
                    metrics_file.rebuild(path)
                    rows = metrics_file.load(path)
        if not len(rows):
            return
        parts = metrics_file.between(rows)
        others = self._parsed(row for start, end in parts for row, _ in event_rows.rows(file, start, end))
        if any(event["type"] in metrics_file.KINDS for event in others):
            return  # it is incomplete: read all of events.jsonl instead
        self._fold_all(others)
        for part in metrics_file.chunks(rows):
            self._add_figures(part)
        self._update_latest(rows[-metrics_file.CHUNK :])
        self.version += len(rows)
        self._offset = int(rows[-1, metrics_file.AT["end"]])

    def _fold_all(self, new: list[Event]) -> None:
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
            elif event["type"] == "checkpoint" and event_rows.is_whole(event.get("step")):
                self.saved = min(max(event["step"], 0), metrics_file.MAX_STEP)
            elif event["type"] in metrics_file.KINDS:
                self.rows_lost = True
            elif event["type"] == "log":
                self.log = [*self.log, _text(event.get("text"))][-LOG_LINES:]
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
            best = float(losses.min())
            self.best_eval_loss = best if self.best_eval_loss is None else min(best, self.best_eval_loss)

    def _update_latest(self, rows: np.ndarray) -> None:
        is_eval = rows[:, metrics_file.AT["eval"]] == 1
        self.latest |= metrics_file.latest_values(rows[is_eval]) | metrics_file.latest_values(rows[~is_eval])
        self.latest["time"] = float(rows[-1, metrics_file.AT["time"]])
        self._read = time.monotonic()

    def _fold_state(self, event: Event) -> None:
        if event.get("state") not in STATES:
            self.rows_lost = True
            return
        written = event.get("time")
        moment = float(written) if event_rows.is_number(written) and 0 <= written < LATEST else 0.0
        self.recorded = event["state"]
        self.download = {}
        self.cause = _text(event.get("cause"))[:20]
        self.message = _text(event.get("message"))
        self.unchanged = event.get("unchanged") is True
        self.worker = _text(event.get("worker"))
        self.changed = moment
        self.created = self.created or moment
        steps, examples = event.get("steps"), event.get("examples")
        if event_rows.is_whole(steps) and 0 <= steps < metrics_file.MAX_STEP:
            self.steps = steps
        if event_rows.is_whole(examples) and 0 <= examples < 2**53:
            self.examples = examples
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

    def silence(self) -> heartbeat.Silence | None:
        """How long the worker has shown no sign of life, if longer than normal: it may be hung."""
        worker = self.process()
        return heartbeat.silence(self.folder, worker) if worker else None

    def activity(self) -> heartbeat.Activity:
        """What the worker is doing outside of its steps."""
        worker = self.process()
        return heartbeat.activity(self.folder, worker) if worker else heartbeat.NOTHING

    def process(self) -> int | None:
        """Process id of the worker of an active run, if it is known."""
        if self.recorded not in ACTIVE:
            return None
        worker = file_locks.holder(self.folder / "lock")
        if worker is None and self.recorded == "starting" and file_locks.alive(self.worker):
            worker = int(self.worker.partition("-")[0])  # it has not taken the lock yet
        return worker

    @property
    def step(self) -> int:
        return int(self.latest.get("step", 0))

    def elapsed(self) -> float:
        """Seconds of training so far, without the pauses of a stopped run."""
        return float(self.latest.get("elapsed", 0.0))

    def idle(self) -> float:
        """Seconds since the last figure was written; since it was read, if the clock was set in the meantime."""
        by_clock = time.time() - self.latest.get("time", 0.0)
        return by_clock if 0 <= by_clock < LONGEST_STEP else time.monotonic() - self._read

    def remaining(self) -> float | None:
        """Estimated seconds left; None before the first step."""
        if not self.steps or not self.step or not self.elapsed():
            return None
        return self.elapsed() / self.step * max(self.steps - self.step, 0)


def _numbers(event: Event) -> dict[str, float]:
    """The figures of a download event; empty if invalid."""
    values = {key: event.get(key) for key in ("files", "of", "bytes", "total", "speed")}
    numbers = {key: value for key, value in values.items() if event_rows.is_number(value) and 0 <= value < 2**60}
    return numbers if len(numbers) == len(values) and numbers["total"] else {}


def _text(value: Any) -> str:
    """A text of an event, of bounded length and without control characters."""
    return visible(value[:MAX_TEXT]) if isinstance(value, str) else ""
