"""The order of the queue: a number in each run folder, lowest first. Does not depend on the clock."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from trainer.common import atomic, bounded_files, file_locks
from trainer.common.bounded_files import DamagedFile

FILE = "place"
COUNTER = ".last-place"


def place(folder: Path) -> int:
    """A run's place in the queue; 0 if it has none."""
    return _read(folder / FILE)


def put_last(folder: Path, runs: Path) -> None:
    """Put a run after all others in the folder `runs`."""
    with file_locks.turn(runs / f"{COUNTER}.lock", patience=5.0):
        number = _read(runs / COUNTER) + 1
        _write(runs / COUNTER, number)
    _write(folder / FILE, number)


def put_first(folder: Path, queued: list[Path]) -> None:
    """Put a run before the `queued` ones."""
    _write(folder / FILE, min([1, *map(place, queued)]) - 1)


def announce(runs: Path) -> None:
    """Signal that a run was queued: apps check this file's modification time before they check every run."""
    now = time.time_ns()
    with contextlib.suppress(OSError):
        os.utime(runs / COUNTER, ns=(now, now))


def _read(path: Path) -> int:
    try:
        return int(bounded_files.read(path, 32))
    except (DamagedFile, ValueError):
        return 0


def _write(path: Path, number: int) -> None:
    atomic.write(path, str(number), durable=False)
