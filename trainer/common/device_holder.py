"""Who has a device: a row of JSON in the device's lock file, written by the process that holds the lock.

Other runs folders, programs and users of the machine read it, so it is foreign input: of bounded size, plain text,
and only believed while the process that it names holds the lock. A path in it is never shown.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from trainer.common import bounded_files, devices, file_locks
from trainer.common.formatting import since
from trainer.common.plain_text import one_line

SIZE = 4096
"""Bytes of the row at most; padded, so that a shorter one replaces a longer one."""
MAX_TITLE, MAX_FOLDER = 120, 1024
LATEST = 2.0**33
"""The latest time that is believed, in the year 2242."""
PAGE, COMMAND_LINE = "page", "command line"


@dataclass(frozen=True)
class Holder:
    """The run that has a device."""

    worker: str
    """Identity of its process."""
    run: str
    """Its id."""
    title: str
    folder: str
    """Path of its runs folder."""
    started_from: str
    """PAGE or COMMAND_LINE."""
    since: float
    """Seconds since 1970."""

    def describe(self, device: str, here: Path) -> str:
        """Who has the device since when. `device`: its name in the sentence; `here`: the reader's runs folder."""
        name = one_line(Path(self.folder).name, 60)
        elsewhere = "" if Path(self.folder) == here else f" in another runs folder, “{name}”,"
        started = f"started from the {self.started_from}"
        return f"“{self.title}”{elsewhere} has had {device} since {since(self.since)} ({started})"


def write(lock: BinaryIO, holder: Holder) -> None:
    """Write who holds the device into its lock file, which this process has locked; not on a full disk."""
    row = json.dumps(asdict(holder)).encode()
    with contextlib.suppress(OSError):
        os.pwrite(lock.fileno(), row.ljust(SIZE) if len(row) <= SIZE else b" " * SIZE, 0)


def read(device: str) -> Holder | None:
    """The run that has `device`, if it is known."""
    path = devices.lock_path(device)
    process = file_locks.holder(path)
    if process is None:
        return None
    with contextlib.suppress(bounded_files.DamagedFile, OSError, ValueError, RecursionError, TypeError, KeyError):
        holder = _parsed(file_locks.content(path, SIZE))
        if holder.worker.startswith(f"{process}-") and file_locks.alive(holder.worker):
            return holder
    return None


def _parsed(row: bytes) -> Holder:
    """Raises ValueError, TypeError or KeyError."""
    values = bounded_files.parse_json(row)
    texts = {key: values[key] for key in ("worker", "run", "title", "folder", "started_from")}
    began = float(values["since"])
    if not all(isinstance(text, str) for text in texts.values()) or not 0 <= began < LATEST:
        raise ValueError
    if texts["started_from"] not in (PAGE, COMMAND_LINE):
        raise ValueError
    limits = {"worker": 40, "run": 40, "title": MAX_TITLE, "folder": MAX_FOLDER, "started_from": 20}
    return Holder(**{key: one_line(text, limits[key]) for key, text in texts.items()}, since=began)
