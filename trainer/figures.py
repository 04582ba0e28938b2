"""metrics.f64: the figures of events.jsonl once more, as rows of float64, so that a long run opens at once.

The file is derived: whatever contradicts events.jsonl is not believed, and a worker makes it anew. Every row says
where its event stands, so that the few other events are found between them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FILE = "metrics.f64"
FIGURES = (
    "time", "epoch", "loss", "learning_rate", "grad_norm", "accuracy", "tokens", "tokens_per_second", "memory",
    "elapsed", "eval_loss", "perplexity", "eval_accuracy",
)  # fmt: skip
COLUMNS = ("start", "end", "eval", "step", *FIGURES)
"""Bytes of events.jsonl from `start` to `end`; `eval` is 1 for an eval, 0 for a training step."""
AT = {name: number for number, name in enumerate(COLUMNS)}
KINDS = ("metrics", "eval")
_ROW = struct.Struct(f"<{len(COLUMNS)}d")
_SAMPLES = 16


class Table:
    """Rows of figures that grow; the last row of a step wins."""

    def __init__(self) -> None:
        self._rows = np.empty((0, len(COLUMNS)))
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, rows: np.ndarray) -> None:
        """Append rows of COLUMNS."""
        size = self._size + len(rows)
        if size > len(self._rows):
            grown = np.empty((max(size, 2 * self._size, 64), len(COLUMNS)))
            grown[: self._size] = self._rows[: self._size]
            self._rows = grown
        self._rows[self._size : size] = rows
        self._size = size

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps in rising order, and the figure at each; NaN where there is none."""
        rows = self._rows[: self._size]
        steps, values = rows[:, AT["step"]].astype(np.int64), rows[:, AT[name]].copy()
        values[~np.isfinite(values)] = np.nan
        if np.all(steps[1:] > steps[:-1]):
            return steps, values
        order = np.argsort(steps, kind="stable")
        steps = steps[order]
        last = np.append(steps[1:] != steps[:-1], True)
        return steps[last], values[order][last]


class FigureWriter:
    """Appends a row per event to metrics.f64, once what is missing there has been made up."""

    def __init__(self, events: Path) -> None:
        rebuild(events)
        self._file: BinaryIO | None = (events.parent / FILE).open("ab", buffering=0)

    def write(self, event: dict[str, Any], start: int, end: int) -> None:
        """Append an event's figures. A disk that is full ends this file, not the training."""
        row = row_of(event, start, end)
        if row is None or self._file is None:
            return
        try:
            whole = self._file.write(_ROW.pack(*row)) == _ROW.size
        except OSError:
            whole = False
        if not whole:
            self.close()  # a torn row may only be the last one

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def row_of(event: dict[str, Any], start: int, end: int) -> tuple[float, ...] | None:
    """An event as a row of COLUMNS; None if it has no figures."""
    step = event.get("step")
    if event.get("type") not in KINDS or not isinstance(step, int) or not 0 <= step < 2**53:
        return None
    return (start, end, KINDS.index(event["type"]), step, *(_number(event.get(name)) for name in FIGURES))


def load(events: Path) -> np.ndarray:
    """The rows of metrics.f64 beside `events`; none if they contradict it. A torn last row is passed over."""
    try:
        raw = np.fromfile(events.parent / FILE, dtype="<f8")
        rows = raw[: len(raw) - len(raw) % len(COLUMNS)].reshape(-1, len(COLUMNS))
        if len(rows) and _true(rows, events):
            return rows
    except OSError:
        pass
    return np.empty((0, len(COLUMNS)))


def newest(rows: np.ndarray) -> dict[str, float]:
    """The newest known value of every figure."""
    found = {}
    for name in FIGURES:
        known = np.flatnonzero(np.isfinite(rows[:, AT[name]]))
        if len(known):
            found[name] = float(rows[known[-1], AT[name]])
    return found


def between(events: Path, rows: np.ndarray) -> Iterator[bytes]:
    """The parts of events.jsonl before and between the events of `rows`."""
    starts, ends = rows[:, AT["start"]], np.concatenate([[0.0], rows[:-1, AT["end"]]])
    with events.open("rb") as file:
        for place in np.flatnonzero(starts > ends):
            file.seek(int(ends[place]))
            yield file.read(int(starts[place] - ends[place]))


def rebuild(events: Path) -> None:
    """Bring metrics.f64 up to date with events.jsonl, which nobody else may be writing meanwhile."""
    rows = load(events)
    offset = int(rows[-1, AT["end"]]) if len(rows) else 0
    missing = [row for row in _placed(events, offset) if row is not None]
    draft, target = events.parent / f".{FILE}", events.parent / FILE
    if not missing and target.exists() and target.stat().st_size == rows.nbytes:
        return
    draft.write_bytes(rows.tobytes() + b"".join(_ROW.pack(*row) for row in missing))
    draft.replace(target)


def _placed(events: Path, offset: int) -> Iterator[tuple[float, ...] | None]:
    if not events.exists():
        return
    with events.open("rb") as file:
        file.seek(offset)
        for line in file:
            start, offset = offset, offset + len(line)
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                yield row_of(event, start, offset)


def _true(rows: np.ndarray, events: Path) -> bool:
    """Whether the places of `rows` fit events.jsonl, and a sample of them says the same."""
    starts, ends = rows[:, AT["start"]], rows[:, AT["end"]]
    if not (np.all(ends > starts) and np.all(starts[1:] >= ends[:-1]) and starts[0] >= 0):
        return False
    with events.open("rb") as file:
        if ends[-1] > file.seek(0, 2):
            return False
        for place in np.unique(np.linspace(0, len(rows) - 1, _SAMPLES).astype(int)):
            start, end = int(starts[place]), int(ends[place])
            file.seek(start)
            try:
                event = json.loads(file.read(end - start))
            except (ValueError, RecursionError):
                return False
            row = row_of(event, start, end) if isinstance(event, dict) else None
            if row is None or not np.array_equal(row, rows[place], equal_nan=True):
                return False
    return True


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else math.nan
