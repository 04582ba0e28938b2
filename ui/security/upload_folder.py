"""Where uploads arrive: a folder of this app alone, locked while it runs. Those of ended apps are removed."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from pathlib import Path
from typing import BinaryIO

from trainer.common import file_locks

_held: list[BinaryIO] = []
"""Open for as long as the process runs, which is what keeps the locks."""


def make(uploads: Path) -> Path:
    """A new folder in `uploads`. What an app that was killed has left there goes first, finished or not."""
    uploads.mkdir(parents=True, exist_ok=True)
    turn = file_locks.acquire(uploads / ".lock", patience=10.0)  # another app may be starting, too
    try:
        for path in uploads.iterdir():
            if path.name != ".lock" and not (path.is_dir() and file_locks.holder(path / ".lock")):
                _remove(path)
        folder = uploads / secrets.token_hex(8)
        folder.mkdir()
        lock = file_locks.acquire(folder / ".lock")
        assert lock is not None, "nobody else knows the name"
        _held.append(lock)
    finally:
        if turn is not None:
            turn.close()
    return folder


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
