"""events.jsonl: what happened in a run, one JSON row each, one writer.

Rows: {"type": "state", "state", "cause", "message"}, {"type": "metrics", "step", "loss", …},
{"type": "eval", "step", "eval_loss", …}, {"type": "log", "text"}; every row has "time" (seconds since 1970).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

Event = dict[str, Any]


class EventWriter:
    """Appends events; a torn last line left by a killed writer is cut off first."""

    def __init__(self, path: Path, echo: Callable[[Event], None] | None = None) -> None:
        _cut_torn_line(path)
        self._echo = echo
        self._file: BinaryIO = path.open("ab", buffering=0)

    def write(self, type: str, **values: Any) -> None:
        """Append one event. NaN and infinity become null, so that every row is plain JSON."""
        event = {"type": type, "time": round(time.time(), 3), **values}
        self._file.write(encode(event))
        if self._echo:
            self._echo(event)

    def close(self) -> None:
        self._file.close()


def encode(event: Event) -> bytes:
    """One row, ending in a newline, written by a single call so that no reader sees half of it for long."""
    clean = {key: _finite(value) for key, value in event.items()}
    return json.dumps(clean, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def append(path: Path, type: str, **values: Any) -> None:
    """Append one event to a run that no worker is writing to."""
    writer = EventWriter(path)
    try:
        writer.write(type, **values)
    finally:
        writer.close()


def read(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Events from byte `offset` on, and the offset after the last whole row. A torn last row waits."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1
    return list(_parse(data[:end])), offset + end


def _parse(data: bytes) -> Iterator[Event]:
    for line in data.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a row torn by a crash and followed by others
        if isinstance(event, dict) and isinstance(event.get("type"), str):
            yield event


def _cut_torn_line(path: Path) -> None:
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
