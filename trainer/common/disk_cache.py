"""Disk cache of checked and tokenized data: folders named by a hash of the content and settings they were made from.

A folder appears complete or not at all; of two processes that need the same one, the second waits for the first. The
cache is part of the data folder, counts toward its quota, and is evicted first when that is exceeded.

Our own: diskcache pickles values into SQLite; these are folders of arrays that workers map into memory.
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
    """The cache key of everything that determines a folder's content."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def made(data_dir: Path, key: str, make: Callable[[Path], None]) -> Path:
    """The folder `key`, filled by `make(draft)` if it does not exist yet.

    Raises what `make` raises, and UserError if the disk is full.
    """
    cache = data_dir / FOLDER
    target = cache / key
    if _touch(target):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = file_locks.acquire(cache / f".{key}.lock", patience=float("inf"))
        try:
            return target if _touch(target) else _make(target, make)
        finally:
            (cache / f".{key}.lock").unlink(missing_ok=True)
            if lock is not None:
                lock.close()
    except OSError as error:
        if error.errno in FULL:
            raise disk_full() from error
        raise


def drop(data_dir: Path, needed: int) -> int:
    """Remove the least recently used folders until `needed` bytes are freed; returns the bytes freed."""
    freed = 0
    for folder in sorted((data_dir / FOLDER).glob("*"), key=_last_use):
        draft = folder.name.startswith(".")
        if freed >= needed and not draft:
            break
        if draft and time.time() - _last_use(folder) < DAY:
            continue  # still being made
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
    return target  # another process may have made it first


def _touch(folder: Path) -> bool:
    """Whether the folder exists; if so, marks it as just used."""
    with contextlib.suppress(OSError):
        os.utime(folder)
        return True
    return False


def _last_use(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime
    return 0.0
