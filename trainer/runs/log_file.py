"""The log of a run, `worker.log`: its end, lines that contain a text, all of it. Never read as a whole."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
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
        lines = deque(_lines(file), maxlen=count + 1)
    complete = not skipped and len(lines) <= count
    shown = list(lines)[-count:]
    return LogLines(tuple((0, line) for line in shown), len(shown), complete, size)


def search(folder: Path, text: str, limit: int) -> LogLines:
    """The last `limit` lines that contain `text`, in any case. Raises UserError if the run has no log."""
    wanted = text.lower()
    found, shown = 0, deque[tuple[int, str]](maxlen=limit)
    with _open(folder) as file:
        size = os.fstat(file.fileno()).st_size
        for number, line in enumerate(_lines(file), 1):
            if wanted in line.lower():
                found += 1
                shown.append((number, line))
    return LogLines(tuple(shown), found, found <= limit, size)


def all_lines(folder: Path) -> Iterator[str]:
    """All lines, cleaned. Raises UserError if the run has no log; reads while it is iterated."""
    file = _open(folder)

    def lines() -> Iterator[str]:
        with file:
            for line in _lines(file, cut=False):
                yield f"{line}\n"

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


def _lines(file: BinaryIO, cut: bool = True) -> Iterator[str]:
    """Lines without control characters and secrets; of a progress bar that was redrawn, its last state.

    A line without an end is read in parts, which bounds the memory.
    """
    while part := file.readline(READ_BYTES):
        line = part.decode("utf-8", "replace").rstrip("\r\n").rpartition("\r")[2]
        line = redact(visible(_COLORS.sub("", line)))
        yield f"{line[:MAX_LINE]}…" if cut and len(line) > MAX_LINE else line
