"""What was checked and tokenized once: folders named by the content and the settings they were made from.

A folder appears whole or not at all; of two processes that want the same one, the second waits for the first.
The cache lies in the data folder, counts towards its quota, and is what goes first when that is passed.

Our own: diskcache keeps values in SQLite, pickled; these are folders of arrays that workers map into memory.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from trainer.common import atomic, file_locks
from trainer.common.disk import disk_full

FOLDER = "cache"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
DAY = 86400


def key_of(*parts: Any) -> str:
    """A name for everything that decides what is in a folder."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def made(data_dir: Path, key: str, make: Callable[[Path], None]) -> Path:
    """The folder `key`, made by `make(draft)` if it is not there yet.

    Raises what `make` raises, and UserError where the disk is full.
    """
    cache = data_dir / FOLDER
    target = cache / key
    if _used(target):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = file_locks.acquire(cache / f".{key}.lock", patience=float("inf"))
        try:
            return target if _used(target) else _make(target, make)
        finally:
            (cache / f".{key}.lock").unlink(missing_ok=True)
            if lock is not None:
                lock.close()
    except OSError as error:
        if error.errno in FULL:
            raise disk_full() from error
        raise


def drop(data_dir: Path, wanted: int) -> int:
    """Remove the folders that were used longest ago until `wanted` bytes are free; returns how many were freed."""
    freed = 0
    for folder in sorted((data_dir / FOLDER).glob("*"), key=_last_use):
        draft = folder.name.startswith(".")
        if freed >= wanted and not draft:
            break
        if draft and time.time() - _last_use(folder) < DAY:
            continue  # being made just now
        size = sum(file.stat().st_size for file in folder.glob("*")) if folder.is_dir() else 0
        shutil.rmtree(folder, ignore_errors=True)
        freed += size
    return freed


def _make(target: Path, make: Callable[[Path], None]) -> Path:
    try:
        with atomic.new_folder(target, durable=False) as draft:
            make(draft)
    except OSError:
        if not target.is_dir():
            raise
    return target  # another process may have been first


def _used(folder: Path) -> bool:
    """Whether the folder is there; if so, it was used just now."""
    with contextlib.suppress(OSError):
        os.utime(folder)
        return True
    return False


def _last_use(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime
    return 0.0
