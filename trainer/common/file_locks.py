"""File locks: one worker per run, one writer per run, one run per device, one scheduler per runs folder.

`lockf`, since `flock` stays held by forked children. Its locks belong to the process, and closing any handle of
the file drops them: so threads take turns here, and a lock that this process holds is never opened again.

Our own: the filelock package takes `flock`, which a forked data loader would go on holding after its worker died.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import struct
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import psutil

HOLDER, WRITER = 0, 1
"""Bytes of a lock file: who lives there, and whose turn it is to write. A worker holds both."""
_TURN = threading.Lock()
_OURS: weakref.WeakValueDictionary[Path, io.FileIO] = weakref.WeakValueDictionary()
"""Locks that this process has acquired and not closed."""
_FLOCK = "@qqihh" if sys.platform == "darwin" else "@hhqqi4x"


def acquire(path: Path, patience: float = 0.0) -> BinaryIO | None:
    """Take the lock at `path`, and the turn to write; None if another process keeps it.

    `patience`: seconds to go on trying. The lock goes with the process or when the file is closed.
    """
    file = _lock(path, (HOLDER, WRITER), patience)
    if file is not None:
        _OURS[path] = file
    return cast("BinaryIO | None", file)


@contextlib.contextmanager
def turn(path: Path, patience: float = 1.0) -> Iterator[bool]:
    """The turn to write, for a moment, where nobody lives at `path`; False if it cannot be had."""
    with _TURN:
        file = None if _is_ours(path) else _lock(path, (WRITER,), patience)
        try:
            yield file is not None
        finally:
            if file is not None:
                file.close()


def holder(path: Path) -> int | None:
    """Process id of whoever holds the lock at `path`; None if it is free."""
    with _TURN:
        if _is_ours(path):
            return os.getpid()
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        with file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, _query())
    values = struct.unpack(_FLOCK, answer)
    kind, process = (values[3], values[2]) if sys.platform == "darwin" else (values[0], values[4])
    return None if kind == fcntl.F_UNLCK else process


def identity(process: int) -> str:
    """A name of a living process that no later one gets: its id and when it started; empty where it is gone.

    Linux counts from the boot in hundredths of a second, which no change of the clock moves.
    """
    try:
        found = psutil.Process(process)
        if found.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return ""
        started = found.create_time() - (psutil.boot_time() if psutil.LINUX else 0)
    except psutil.NoSuchProcess:
        return ""
    return f"{process}-{round(started * 100)}"


def alive(name: str) -> bool:
    """Whether the process that had this identity still lives."""
    number = name.partition("-")[0]
    return number.isdigit() and identity(int(number)) == name


def _is_ours(path: Path) -> bool:
    file = _OURS.get(path)
    return file is not None and not file.closed


def _lock(path: Path, places: tuple[int, ...], patience: float) -> io.FileIO | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
    deadline = time.monotonic() + patience
    for place in places:
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    file.close()
                    return None
                time.sleep(0.02)
    return file


def _query() -> bytes:
    """The kernel's `struct flock` that asks who would be in the way of HOLDER."""
    if sys.platform == "darwin":
        return struct.pack(_FLOCK, HOLDER, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)
    return struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, HOLDER, 1, 0)
