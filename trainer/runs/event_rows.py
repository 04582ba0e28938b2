"""The rows of events.jsonl, read in bounded memory whatever the file holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from trainer.common import bounded_files
from trainer.common.bounded_files import DamagedFile
from trainer.common.formatting import size

MAX_BYTES = 4_000_000_000
"""The longest run that a configuration allows, 10 million steps, writes about 3 GB."""
MAX_ROW = 2**20

Event = dict[str, Any]


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of an event is a number, which true and false are not."""
    return type(value) in (int, float)


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value of an event is a whole number."""
    return type(value) is int


def open_events(path: Path) -> BinaryIO:
    """The open events.jsonl. Raises DamagedFile."""
    if bounded_files.size(path) > MAX_BYTES:
        raise DamagedFile(path.name, f"is larger than {size(MAX_BYTES)}, which no run writes")
    return bounded_files.open_regular(path)


def rows(file: BinaryIO, start: int, stop: int | None = None) -> Iterator[tuple[bytes, int]]:
    """Complete rows from byte `start` to `stop`, each with the position after it; a torn last row is left out.

    A row longer than MAX_ROW comes in pieces, none of which is an event.
    """
    file.seek(start)
    while stop is None or start < stop:
        row = file.readline(MAX_ROW)
        if not row.endswith(b"\n") and len(row) < MAX_ROW:
            return
        start += len(row)
        yield row, start


def parse(row: bytes) -> Event | None:
    """The event of a complete row; None if it is none."""
    if len(row) >= MAX_ROW:
        return None
    try:
        event = bounded_files.parse_json(row)
    except (ValueError, RecursionError):
        return None  # torn by a crash and followed by others, or damaged
    return event if isinstance(event, dict) and isinstance(event.get("type"), str) else None
