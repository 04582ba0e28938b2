"""metrics.f64: a copy of the figures in events.jsonl as rows of float64, so that long runs open fast.

The file is derived: if it contradicts events.jsonl it is ignored, and rebuilt by a worker. Every row has the position
of its event, so that the few other events can be found between them.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.common import atomic, bounded_files
from trainer.common.bounded_files import DamagedFile
from trainer.runs import event_rows

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
MAX_STEP = 2**31
_LARGEST = 1e38
"""Figures beyond float32 are damage."""
_POSITIVE = ("time", "epoch", "tokens", "tokens_per_second", "memory", "elapsed")
_SHORTEST = 20
"""Bytes that an event with a figure takes at least."""
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
        self._file: BinaryIO | None = None
        with contextlib.suppress(OSError, DamagedFile):  # such as a folder of that name
            rebuild(events)
            bounded_files.check_regular(events.parent / FILE)
            self._file = (events.parent / FILE).open("ab", buffering=0)

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
    if event.get("type") not in KINDS or not event_rows.is_whole(step) or not 0 <= step < MAX_STEP:
        return None
    return (start, end, KINDS.index(event["type"]), step, *(_number(name, event.get(name)) for name in FIGURES))


def load(events: Path) -> np.ndarray:
    """The rows of metrics.f64 next to `events`; none if they contradict it. A torn last row is ignored."""
    try:
        count = bounded_files.size(events.parent / FILE) // _ROW.size
        if 0 < count * _SHORTEST < bounded_files.size(events):
            # read, not mapped: touching a page of a map whose file was cut off ends the process with SIGBUS
            rows = np.fromfile(events.parent / FILE, "<f8", count * len(COLUMNS)).reshape(count, len(COLUMNS))
            if _matches(rows, events):
                return rows
    except (OSError, ValueError, DamagedFile):
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


def between(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and end of the parts of events.jsonl before and between the events of `rows`."""
    before = 0
    for part in chunks(rows):
        starts, ends = part[:, AT["start"]], part[:, AT["end"]]
        before_each = np.concatenate([[before], ends[:-1]])
        for place in np.flatnonzero(starts > before_each):
            yield int(before_each[place]), int(starts[place])
        before = int(ends[-1])


def rebuild(events: Path) -> None:
    """Bring metrics.f64 up to date with events.jsonl, which nobody may be writing to at the same time."""
    rows = load(events)
    offset = int(rows[-1, AT["end"]]) if len(rows) else 0
    target = events.parent / FILE
    missing = (row for row in _placed(events, offset) if row is not None)
    first = next(missing, None)
    if first is None and target.is_file() and target.stat().st_size == rows.nbytes:
        return
    with atomic.new_file(target, durable=False) as file:
        for part in chunks(rows):
            file.write(part.tobytes())
        for row in ([first] if first else []), missing:
            file.writelines(_ROW.pack(*values) for values in row)


def _placed(events: Path, offset: int) -> Iterator[tuple[float, ...] | None]:
    if not events.exists():
        return
    with event_rows.open_events(events) as file:
        for row, end in event_rows.rows(file, offset):
            event = event_rows.parse(row)
            if event is not None:
                yield row_of(event, end - len(row), end)


def _matches(rows: np.ndarray, events: Path) -> bool:
    """Whether the positions in `rows` fit events.jsonl, and a sample of the rows agrees with it."""
    before = 0.0
    for part in chunks(rows):
        starts, ends = part[:, AT["start"]], part[:, AT["end"]]
        if not (starts[0] >= before and np.all(ends > starts) and np.all(starts[1:] >= ends[:-1])):
            return False
        before = ends[-1]
        if not _is_plausible(part):
            return False
    with event_rows.open_events(events) as file:
        if before > file.seek(0, 2):
            return False
        sample = np.unique(np.linspace(0, len(rows) - 1, _SAMPLES).astype(int))
        return all(_row_matches(file, rows[place]) for place in sample)


def _row_matches(file: BinaryIO, row: np.ndarray) -> bool:
    start, end = int(row[AT["start"]]), int(row[AT["end"]])
    file.seek(start)
    event = event_rows.parse(file.read(min(end - start, event_rows.MAX_ROW)))
    return event is not None and np.array_equal(row_of(event, start, end) or (), row, equal_nan=True)


def _is_plausible(part: np.ndarray) -> bool:
    """Whether all steps and figures are such as `row_of` makes them."""
    steps, positive = part[:, AT["step"]], part[:, [AT[name] for name in _POSITIVE]]
    return bool(
        np.all((steps >= 0) & (steps < MAX_STEP)) and not np.any(np.abs(part) > _LARGEST) and not np.any(positive < 0)
    )


def _number(name: str, value: Any) -> float:
    """A figure of an event; NaN if it is missing or cannot be one."""
    if not event_rows.is_number(value) or not abs(value) < _LARGEST or (value < 0 and name in _POSITIVE):
        return math.nan
    return float(value)
