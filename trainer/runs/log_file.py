"""The log of a run, `worker.log`: its end, lines that contain a text, all of it. Never read as a whole."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from trainer.common import bounded_files
from trainer.common.bounded_files import DamagedFile
from trainer.common.errors import UserError
from trainer.common.plain_text import visible
from trainer.common.redaction import redact

FILE = "worker.log"
MAX_LINE = 4000
"""Characters of a line that are shown."""
READ_BYTES = 2**16
BATCH = 1000
"""Lines of the whole log that are read at once."""
_COLORS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
TAIL_BYTES = 4 * 2**20
"""Bytes that are read for the end of a log, however large it is."""


@dataclass(frozen=True)
class LogLines:
    """Some lines of a log, with their numbers from 1; 0 where they are not known."""

    lines: tuple[tuple[int, str], ...]
    found: int
    """Lines that match; of the end of a log, the lines that are shown."""
    complete: bool
    """Whether these are all lines of the log, or all that match."""
    size: int
    """Bytes of the log."""


def tail(folder: Path, count: int) -> LogLines:
    """The last `count` lines. Raises UserError if the run has no log."""
    with _open(folder) as file:
        size = os.fstat(file.fileno()).st_size
        skipped = max(0, size - TAIL_BYTES)
        file.seek(skipped)
        if skipped:
            file.readline(TAIL_BYTES)  # the rest of a line
        lines = deque(_parts(file), maxlen=count + 1)
    complete = not skipped and len(lines) <= count
    shown = [_shortened(_safe(_line(line))) for line in list(lines)[-count:]]
    return LogLines(tuple((0, line) for line in shown), len(shown), complete, size)


def search(folder: Path, text: str, limit: int) -> LogLines:
    """The last `limit` lines that contain `text`, in any case. Raises UserError if the run has no log."""
    wanted = text.lower()
    found, shown = 0, deque[tuple[int, str]](maxlen=limit)
    with _open(folder) as file:
        size = os.fstat(file.fileno()).st_size
        for number, part in enumerate(_parts(file), 1):
            if wanted in (line := _line(part)).lower() and wanted in (line := _safe(line)).lower():
                found += 1
                shown.append((number, _shortened(line)))
    return LogLines(tuple(shown), found, found <= limit, size)


def whole(folder: Path) -> Iterator[str]:
    """The whole log in pieces of whole lines. Raises UserError if the run has no log; reads while it is iterated."""
    file = _open(folder)

    def lines() -> Iterator[str]:
        with file:
            parts = _parts(file)
            while batch := list(islice(parts, BATCH)):
                yield _safe("".join(f"{_line(part)}\n" for part in batch))

    return lines()


def _open(folder: Path) -> BinaryIO:
    try:
        return bounded_files.open_regular(folder / FILE)
    except DamagedFile as error:
        if not (folder / FILE).exists():
            raise UserError(
                "This run has no log yet.",
                "Runs that the app trains write one; the command line prints it to its terminal.",
                "data",
            ) from error
        raise


def _parts(file: BinaryIO) -> Iterator[bytes]:
    """Lines; one without an end is read in parts, which bounds the memory."""
    return iter(lambda: file.readline(READ_BYTES), b"")


def _line(part: bytes) -> str:
    """A line without colors; of a progress bar that was redrawn, its last state."""
    line = part.decode("utf-8", "replace").rstrip("\r\n").rpartition("\r")[2]
    return _COLORS.sub("", line) if "\x1b" in line else line


def _safe(text: str) -> str:
    """Text without control characters and secrets. Takes as long for one line as for a thousand."""
    return redact(visible(text))


def _shortened(line: str) -> str:
    return f"{line[:MAX_LINE]}…" if len(line) > MAX_LINE else line
