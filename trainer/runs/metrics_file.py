"""metrics.f64: a copy of the figures in events.jsonl as rows of float64, so that long runs open fast.

The file is derived: if it contradicts events.jsonl it is ignored, and rebuilt by a worker. Every row has the position
of its event, so that the few other events can be found between them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.common import atomic

FILE = "metrics.f64"
FIGURES = (
    "time", "epoch", "loss", "learning_rate", "grad_norm", "accuracy", "tokens", "tokens_per_second", "memory",
    "elapsed", "eval_loss", "perplexity", "eval_accuracy", "router_loss",
)  # fmt: skip
COLUMNS = ("start", "end", "eval", "step", *FIGURES)
"""Bytes of events.jsonl from `start` to `end`; `eval` is 1 for an eval, 0 for a training step."""
AT = {name: number for number, name in enumerate(COLUMNS)}
KINDS = ("metrics", "eval")
_ROW = struct.Struct(f"<{len(COLUMNS)}d")
DRAWN = ("loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second", "tokens", "elapsed")
CHUNK = 8192
"""Rows processed at a time: they fit into the CPU cache."""
_SAMPLES = 16


class Table:
    """The figures of the curves by step; the last row of a step wins."""

    def __init__(self) -> None:
        self._columns = {name: np.empty(0) for name in ("step", *DRAWN)}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, rows: np.ndarray) -> None:
        """Append rows of COLUMNS."""
        size = self._size + len(rows)
        for name, column in self._columns.items():
            if size > len(column):
                grown = np.empty(max(size, 2 * self._size, 64))
                grown[: self._size] = column[: self._size]
                self._columns[name] = column = grown
            column[self._size : size] = rows[:, AT[name]]
        self._size = size

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps in ascending order, and the figure at each; NaN if missing."""
        steps, values = self._columns["step"][: self._size], self._columns[name][: self._size]
        if np.all(steps[1:] > steps[:-1]):
            return steps, values
        order = np.argsort(steps, kind="stable")
        steps = steps[order]
        last = np.append(steps[1:] != steps[:-1], True)
        return steps[last], values[order][last]


class FigureWriter:
    """Appends a row per event to metrics.f64, after adding missing ones."""

    def __init__(self, events: Path) -> None:
        rebuild(events)
        self._file: BinaryIO | None = (events.parent / FILE).open("ab", buffering=0)

    def write(self, event: dict[str, Any], start: int, end: int) -> None:
        """Append an event's figures. A full disk ends this file, not the training."""
        row = row_of(event, start, end)
        if row is None or self._file is None:
            return
        try:
            complete = self._file.write(_ROW.pack(*row)) == _ROW.size
        except OSError:
            complete = False
        if not complete:
            self.close()  # only the last row may be torn

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
    """The rows of metrics.f64 next to `events`; none if they contradict it. A torn last row is ignored."""
    try:
        count = (events.parent / FILE).stat().st_size // _ROW.size
        if count:
            rows = np.memmap(events.parent / FILE, dtype="<f8", mode="r", shape=(count, len(COLUMNS)))
            if _matches(rows, events):
                return rows
    except (OSError, ValueError):
        pass
    return np.empty((0, len(COLUMNS)))


def chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """`rows` in parts of CHUNK."""
    for first in range(0, len(rows), CHUNK):
        yield np.asarray(rows[first : first + CHUNK])


def latest_values(rows: np.ndarray) -> dict[str, float]:
    """The latest known value of every figure."""
    latest = {}
    for name in FIGURES:
        known = np.flatnonzero(np.isfinite(rows[:, AT[name]]))
        if len(known):
            latest[name] = float(rows[known[-1], AT[name]])
    return latest


def between(events: Path, rows: np.ndarray) -> Iterator[bytes]:
    """The parts of events.jsonl before and between the events of `rows`."""
    before = 0
    with events.open("rb") as file:
        for part in chunks(rows):
            starts, ends = part[:, AT["start"]], part[:, AT["end"]]
            before_each = np.concatenate([[before], ends[:-1]])
            for place in np.flatnonzero(starts > before_each):
                file.seek(int(before_each[place]))
                yield file.read(int(starts[place] - before_each[place]))
            before = int(ends[-1])


def rebuild(events: Path) -> None:
    """Bring metrics.f64 up to date with events.jsonl, which nobody may be writing to at the same time."""
    rows = load(events)
    offset = int(rows[-1, AT["end"]]) if len(rows) else 0
    target = events.parent / FILE
    missing = (row for row in _placed(events, offset) if row is not None)
    first = next(missing, None)
    if first is None and target.exists() and target.stat().st_size == rows.nbytes:
        return
    with atomic.new_file(target, durable=False) as file:
        for part in chunks(rows):
            file.write(part.tobytes())
        for row in ([first] if first else []), missing:
            file.writelines(_ROW.pack(*values) for values in row)


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


def _matches(rows: np.ndarray, events: Path) -> bool:
    """Whether the positions in `rows` fit events.jsonl, and a sample of the rows agrees with it."""
    before = 0.0
    for part in chunks(rows):
        starts, ends = part[:, AT["start"]], part[:, AT["end"]]
        if not (starts[0] >= before and np.all(ends > starts) and np.all(starts[1:] >= ends[:-1])):
            return False
        before = ends[-1]
    with events.open("rb") as file:
        if before > file.seek(0, 2):
            return False
        sample = np.unique(np.linspace(0, len(rows) - 1, _SAMPLES).astype(int))
        return all(_row_matches(file, rows[place]) for place in sample)


def _row_matches(file: BinaryIO, row: np.ndarray) -> bool:
    start, end = int(row[AT["start"]]), int(row[AT["end"]])
    file.seek(start)
    try:
        event = json.loads(file.read(end - start))
    except ValueError:
        return False
    return isinstance(event, dict) and np.array_equal(row_of(event, start, end) or (), row, equal_nan=True)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else math.nan
