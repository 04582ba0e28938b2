"""events.jsonl: the events of a run, one JSON row each.

The only writer is whoever holds the run's lock, or its turn.
Rows: {"type": "state", "state", "cause", "message"}, {"type": "metrics", "step", "loss", …},
{"type": "eval", "step", "eval_loss", …}, {"type": "log", "text"}, {"type": "base", "revision", "commit"} (what a
hub model is pinned to), {"type": "download", "files", "of", "bytes", "total", "speed"}; every row has "time" (seconds
since 1970).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from trainer.common import bounded_files, redaction
from trainer.runs import event_rows
from trainer.runs.event_rows import Event
from trainer.runs.metrics_file import FigureWriter


class EventWriter:
    """Appends events, after removing a torn last line left by a killed writer.

    `figures`: also write metrics.f64; for the worker, which holds the run's lock.
    """

    def __init__(self, path: Path, echo: Callable[[Event], None] | None = None, figures: bool = False) -> None:
        _cut_torn_line(path)
        self._echo = echo
        self._figures = FigureWriter(path) if figures else None
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._pending: deque[Event] = deque()
        self._busy = False

    def write(self, type: str, **values: Any) -> None:
        """Append one event. NaN and infinity become null, so that every row is strict JSON.

        Raises OSError if the disk cannot be written to; the file is then unchanged.
        """
        self._pending.append({"type": type, "time": round(time.time(), 3), **values})
        if self._busy:
            return  # called by a signal handler during a write: the interrupted call writes this event, too
        self._busy = True
        try:
            while self._pending:
                self._append(self._pending.popleft())
        finally:
            self._busy = False

    def _append(self, event: Event) -> None:
        row, start = encode(event), self._file.seek(0, os.SEEK_END)
        written = 0
        try:
            while written < len(row):
                written += self._file.write(row[written:])
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise
        if self._figures:
            self._figures.write(event, start, start + len(row))
        if self._echo:
            self._echo(event)

    def close(self) -> None:
        self._file.close()
        if self._figures:
            self._figures.close()


def encode(event: Event) -> bytes:
    """An event as one row of bytes, ending in a newline."""
    clean = {key: _finite(value) for key, value in redaction.redact_values(event).items()}
    return json.dumps(clean, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def append(path: Path, type: str, **values: Any) -> None:
    """Append one event to a run; take its turn first (`file_locks.turn`)."""
    writer = EventWriter(path)
    try:
        writer.write(type, **values)
    finally:
        writer.close()


def read(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Events from byte `offset` on, and the offset after the last complete row; a torn last row is left for later.

    Damaged rows are left out. Raises DamagedFile if the file cannot be read.
    """
    events = []
    with event_rows.open_events(path) as file:
        for row, end in event_rows.rows(file, offset):
            offset, event = end, event_rows.parse(row)
            if event is not None:
                events.append(event)
    return events, offset


def _cut_torn_line(path: Path) -> None:
    """Raises DamagedFile if something other than a file is there."""
    bounded_files.check_regular(path)
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        while size:
            start = max(0, size - 65536)
            file.seek(start)
            end = file.read(size - start).rfind(b"\n") + 1
            if end or start == 0:
                file.truncate(start + end)
                return
            size = start


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
