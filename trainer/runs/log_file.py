"""The log of a run as text: its events, then what its worker printed (`worker.log`), such as a traceback.

Its end, the lines that contain a text, all of it: whatever their size, neither file is held in memory as a whole.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from trainer.common import bounded_files
from trainer.common.plain_text import visible
from trainer.common.redaction import redact
from trainer.runs import event_rows
from trainer.runs.event_rows import Event

EVENTS, OUTPUT = "events.jsonl", "worker.log"
MAX_LINE = 4000
"""Characters of a line that are shown."""
READ_BYTES = 2**16
BATCH = 1000
"""Lines of the whole log that are read at once."""
TAIL_BYTES = 4 * 2**20
"""Bytes of each file that are read for the end of a log."""
HIDDEN = ("type", "time", "worker")
_COLORS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
Source = tuple[BinaryIO, Callable[[bytes], str]]
"""An open file, and how one of its lines is written."""


@dataclass(frozen=True)
class LogLines:
    """Some lines of a log, with their numbers from 1; 0 where they are not known."""

    lines: tuple[tuple[int, str], ...]
    found: int
    """Lines that match; of the end of a log, the lines that are shown."""
    complete: bool
    """Whether these are all lines of the log, or all that match."""
    size: int
    """Bytes of its files."""


def tail(folder: Path, count: int) -> LogLines:
    """The last `count` lines. Raises DamagedFile if a file cannot be read."""
    kept: list[str] = []
    complete, size = True, 0
    with ExitStack() as stack:
        for file, write in reversed(_sources(folder, stack)):
            length = os.fstat(file.fileno()).st_size
            size += length
            skipped = max(0, length - TAIL_BYTES)
            file.seek(skipped)
            if skipped:
                file.readline(TAIL_BYTES)  # the rest of a line
            parts = deque(_parts(file), maxlen=count - len(kept) + 1)
            complete = complete and not skipped and len(parts) <= count - len(kept)
            wanted = list(parts)[-(count - len(kept)) :] if count > len(kept) else []
            kept = [*(_shortened(_safe(write(part))) for part in wanted), *kept]
    return LogLines(tuple((0, line) for line in kept), len(kept), complete, size)


def search(folder: Path, text: str, limit: int) -> LogLines:
    """The last `limit` lines that contain `text`, in any case. Raises DamagedFile if a file cannot be read."""
    wanted = text.lower()
    found = number = size = 0
    shown = deque[tuple[int, str]](maxlen=limit)
    with ExitStack() as stack:
        for file, write in _sources(folder, stack):
            size += os.fstat(file.fileno()).st_size
            for part in _parts(file):
                number += 1
                if wanted in (line := write(part)).lower() and wanted in (line := _safe(line)).lower():
                    found += 1
                    shown.append((number, _shortened(line)))
    return LogLines(tuple(shown), found, found <= limit, size)


def whole(folder: Path) -> Iterator[str]:
    """The whole log in pieces of whole lines. Raises DamagedFile if a file cannot be read."""
    stack = ExitStack()
    sources = _sources(folder, stack)

    def pieces() -> Iterator[str]:
        with stack:
            for file, write in sources:
                parts = _parts(file)
                while batch := list(islice(parts, BATCH)):
                    yield _safe("".join(f"{write(part)}\n" for part in batch))

    return pieces()


def _sources(folder: Path, stack: ExitStack) -> list[Source]:
    """The files of the log that exist, opened."""
    writers = {EVENTS: _event, OUTPUT: _line}
    found = [name for name in writers if os.path.lexists(folder / name)]
    return [(stack.enter_context(bounded_files.open_regular(folder / name)), writers[name]) for name in found]


def _parts(file: BinaryIO) -> Iterator[bytes]:
    """Lines; one without an end is read in parts, which bounds the memory."""
    return iter(lambda: file.readline(READ_BYTES), b"")


def _event(row: bytes) -> str:
    """A row of events.jsonl as a line; a damaged one as it is."""
    event = event_rows.parse(row)
    if event is None:
        return _line(row)
    moment = event.get("time")
    when = time.strftime("%Y-%m-%d %H:%M:%S  ", time.localtime(moment)) if _is_moment(moment) else ""
    return when + (str(event.get("text", "")) if event["type"] == "log" else _values(event))


def _is_moment(value: object) -> bool:
    return event_rows.is_number(value) and 0 <= value < 2**33


def _values(event: Event) -> str:
    """`eval: step 60, eval_loss 1.234`."""
    values = (
        f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in event.items()
        if key not in HIDDEN and value not in ("", None)
    )
    return f"{event['type']}: {', '.join(values)}"


def _line(part: bytes) -> str:
    """A line without colors; of a progress bar that was redrawn, its last state."""
    line = part.decode("utf-8", "replace").rstrip("\r\n").rpartition("\r")[2]
    return _COLORS.sub("", line) if "\x1b" in line else line


def _safe(text: str) -> str:
    """Text without control characters and secrets. Takes as long for one line as for a thousand."""
    return redact(visible(text))


def _shortened(line: str) -> str:
    return f"{line[:MAX_LINE]}…" if len(line) > MAX_LINE else line
