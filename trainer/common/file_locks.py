"""File locks: one worker per run, one writer per run, one run per device, one scheduler per runs folder.

Uses `lockf`, since forked children keep a `flock`. Its locks belong to the process, and closing any handle of the
file releases them: so threads take turns here, and a lock that this process holds is never opened again.

Our own: the filelock package uses `flock`, which a forked data loader would keep after its worker has died.
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

from trainer.common import bounded_files
from trainer.common.bounded_files import DamagedFile

UNKNOWN = 0
"""Process id of a holder that is not known."""
HOLDER, WRITER = 0, 1
"""Bytes of a lock file: one for its holder, one for whoever may write. A worker holds both."""
_TURN = threading.Lock()
_OURS: weakref.WeakValueDictionary[Path, io.FileIO] = weakref.WeakValueDictionary()
"""Locks that this process has acquired and not closed."""
_FLOCK = "@qqihh" if sys.platform == "darwin" else "@hhqqi4x"


def acquire(path: Path, patience: float = 0.0, shared: bool = False) -> BinaryIO | None:
    """Take the lock at `path`, and the turn to write; None if another process holds it.

    `patience`: seconds to keep trying. `shared`: other users of the machine may take it, too. The lock is released
    when the file is closed or the process ends.
    """
    file = _lock(path, (HOLDER, WRITER), patience, shared)
    if file is not None:
        _OURS[path] = file
    return cast("BinaryIO | None", file)


@contextlib.contextmanager
def turn(path: Path, patience: float = 1.0) -> Iterator[bool]:
    """Take the turn to write for a moment, if nobody holds `path`; yields False if it is not available."""
    with _TURN:
        file = None if _is_ours(path) else _lock(path, (WRITER,), patience)
        try:
            yield file is not None
        finally:
            if file is not None:
                file.close()


def holder(path: Path) -> int | None:
    """Process id of whoever holds the lock at `path`; None if it is free, UNKNOWN if that cannot be found out."""
    with _TURN:
        if _is_ours(path):
            return os.getpid()
        try:
            file = bounded_files.open_regular(path)
        except DamagedFile:
            return UNKNOWN if path.is_file() else None
        with file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, _query())
    values = struct.unpack(_FLOCK, answer)
    kind, process = (values[3], values[2]) if sys.platform == "darwin" else (values[0], values[4])
    return None if kind == fcntl.F_UNLCK else process


def content(path: Path, limit: int) -> bytes:
    """The first `limit` bytes of the lock file at `path`. Raises DamagedFile, or OSError."""
    with _TURN:
        ours = _OURS.get(path)
        if ours is not None and not ours.closed:
            return os.pread(ours.fileno(), limit, 0)
        with bounded_files.open_regular(path) as file:
            return file.read(limit)


def identity(process: int) -> str:
    """A unique name of a living process: its id and start time; empty if it has ended.

    On Linux, the time since boot in hundredths of a second, which clock changes do not affect.
    """
    try:
        info = psutil.Process(process)
        if info.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return ""
        started = info.create_time() - (psutil.boot_time() if psutil.LINUX else 0)
    except psutil.NoSuchProcess:
        return ""
    return f"{process}-{round(started * 100)}"


def alive(name: str) -> bool:
    """Whether the process with this identity is still alive."""
    number = name.partition("-")[0]
    return number.isdecimal() and len(number) < 10 and identity(int(number)) == name


def _is_ours(path: Path) -> bool:
    file = _OURS.get(path)
    return file is not None and not file.closed


def _lock(path: Path, offsets: tuple[int, ...], patience: float, shared: bool = False) -> io.FileIO | None:
    """Raises DamagedFile if something other than a file is there, OSError if the folder cannot be written to."""
    bounded_files.check_regular(path)
    file = io.FileIO(_open(path, shared), "r+")
    deadline = time.monotonic() + patience
    for offset in offsets:
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    file.close()
                    return None
                time.sleep(0.02)
    return file


def _open(path: Path, shared: bool) -> int:
    """The lock file, made if there is none; modes are set explicitly, since the umask keeps all else private."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, os.O_RDWR)  # Linux refuses O_CREAT for another user's file in a folder like /tmp
    if shared and not path.parent.exists():
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o1777)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if shared:
        os.fchmod(file, 0o666)
    return file


def _query() -> bytes:
    """A `struct flock` that asks the kernel who holds HOLDER."""
    if sys.platform == "darwin":
        return struct.pack(_FLOCK, HOLDER, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)
    return struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, HOLDER, 1, 0)
