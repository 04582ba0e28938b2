"""events.jsonl read into what a person wants to know: the state of a run, its newest figures, its curves."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer import events, locks

ACTIVE = ("starting", "running", "stopping")
ENDED = ("finished", "stopped", "failed", "interrupted")
LAUNCH_GRACE = 60.0
"""Seconds that a launched worker has to take its lock before the run counts as interrupted."""
LOG_LINES = 200


@dataclass
class History:
    """One run's events, folded. `refresh` reads what is new; the last event of a step wins."""

    folder: Path
    recorded: str = "queued"
    """State as last written; `state` says what is true now."""
    cause: str = ""
    message: str = ""
    steps: int = 0
    """Steps the run will take in all, as its worker counted."""
    created: float = 0.0
    started: float = 0.0
    """Time of the first training step's beginning; 0 before it."""
    changed: float = 0.0
    """Time of the last state event."""
    latest: dict[str, float] = field(default_factory=dict)
    """Newest value of every figure: loss, eval_loss, learning_rate, grad_norm, tokens_per_second, memory, …"""
    best_eval_loss: float | None = None
    train: dict[int, dict[str, Any]] = field(default_factory=dict)
    """step -> figures of that step."""
    evals: dict[int, dict[str, Any]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    version: int = 0
    """Grows with every event read: equal versions draw equal pictures."""
    _offset: int = 0

    def refresh(self) -> History:
        new, self._offset = events.read(self.folder / "events.jsonl", self._offset)
        for event in new:
            self._fold(event)
        self.version += len(new)
        return self

    def _fold(self, event: events.Event) -> None:
        kind, moment = event["type"], float(event.get("time") or 0.0)
        if kind == "state":
            self._fold_state(event, moment)
        elif kind in ("metrics", "eval") and isinstance(event.get("step"), int):
            figures = {key: value for key, value in event.items() if key not in ("type", "step")}
            rows = self.train if kind == "metrics" else self.evals
            rows[event["step"]] = rows.get(event["step"], {}) | figures
            self.latest |= {key: value for key, value in figures.items() if value is not None}
            self.latest["step"] = max(event["step"], self.latest.get("step", 0))
            value = figures.get("eval_loss")
            if value is not None and (self.best_eval_loss is None or value < self.best_eval_loss):
                self.best_eval_loss = value
        elif kind == "log":
            self.log = [*self.log, str(event.get("text", ""))][-LOG_LINES:]

    def _fold_state(self, event: events.Event, moment: float) -> None:
        self.recorded = str(event.get("state"))
        self.cause = str(event.get("cause") or "")
        self.message = str(event.get("message") or "")
        self.changed = moment
        self.created = self.created or moment
        if isinstance(event.get("steps"), int):
            self.steps = event["steps"]
        if self.recorded == "running" and not self.started:
            self.started = moment

    @property
    def state(self) -> str:
        """One of the states of DESIGN: what was recorded, unless its worker is gone."""
        if self.recorded in ACTIVE and locks.holder(self.folder / "lock") is None:
            late = time.time() - self.changed > LAUNCH_GRACE
            if self.recorded != "starting" or late or (self.folder / "lock").exists():
                return "interrupted"
        return self.recorded

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
