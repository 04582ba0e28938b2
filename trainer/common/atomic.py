"""Atomic writes: files and folders appear complete or not at all, even if the writing program is killed.

Everything is written next to its target under a hidden name, synced to disk, and renamed; only its user may read it.
`durable=False` skips the sync, for what can be rebuilt and is validated when read: a power failure may corrupt such a
file, a killed program cannot.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def new_file(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """An open file that replaces `path` when the block ends, and is removed if it raises."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        draft = Path(file.name)
        try:
            yield file
            file.flush()
            publish(draft, path, durable)
        except BaseException:  # also if the process is being stopped
            draft.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def new_folder(path: Path, durable: bool = True, replace: bool = False) -> Iterator[Path]:
    """An empty folder that becomes `path` when the block ends, and is removed if it raises.

    With `replace`, an existing `path` is replaced at the last moment; without, a non-empty one raises OSError.
    """
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield draft
        with _aside(path) if replace else contextlib.nullcontext():
            publish(draft, path, durable)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def write(path: Path, content: bytes | str, durable: bool = True) -> None:
    """Write a whole file; text becomes UTF-8."""
    with new_file(path, durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON. Raises ValueError for NaN and infinity."""
    write(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))


def publish(draft: Path, path: Path, durable: bool = True) -> None:
    """Give a finished file or folder its real name; `draft` must be on the same disk as `path`."""
    if durable:
        for parent, _, names in os.walk(draft):
            for name in (*names, "."):
                _sync(Path(parent, name))
        if draft.is_file():
            _sync(draft)
    draft.replace(path)
    if durable:
        _sync(path.parent)


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[None]:
    """Move a folder out of the way: removed in the end, restored if the block raises."""
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
    try:
        if path.exists():
            path.replace(old)
        yield
    except BaseException:
        if not path.exists() and any(old.iterdir()):
            old.replace(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
