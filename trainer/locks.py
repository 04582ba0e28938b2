"""File locks: one worker per run, one run per device. `lockf`, since `flock` stays held by forked children."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import BinaryIO


def acquire(path: Path, patience: float = 0.0) -> BinaryIO | None:
    """Take the lock at `path` and write this process's id into it; None if another process keeps it.

    `patience`: seconds to go on trying. The lock goes with the process or when the file is closed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("r+b" if path.exists() else "w+b")
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() >= deadline:
                file.close()
                return None
            time.sleep(0.05)
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    file.flush()
    return file


def holder(path: Path) -> int | None:
    """Process id of whoever holds the lock at `path`; None if it is free. Never call it in the holder itself."""
    try:
        with path.open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                text = file.read(32).decode(errors="replace").strip()
                return int(text) if text.isdigit() else -1
            return None
    except FileNotFoundError:
        return None
