"""Reads files that anybody may have put there: regular files only, and only up to a size.

Opening a FIFO blocks until somebody writes to it, a device may never end, and a file may be larger than the memory.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from trainer.common.errors import UserError
from trainer.common.formatting import size as size_text

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class DamagedFile(UserError):
    """A file that is missing, of the wrong kind, too large, unreadable or not what its name says."""

    def __init__(self, name: str, reason: str, fix: str = "") -> None:
        super().__init__(f"{name} {reason}.", fix, "disk")


def check_regular(path: Path) -> None:
    """Raises DamagedFile if something other than a regular file is there, OSError if that cannot be found out."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise DamagedFile(path.name, f"is {_KINDS.get(stat.S_IFMT(mode), 'a special file')}, not a file")


def open_regular(path: Path) -> BinaryIO:
    """The open file. Raises DamagedFile; never blocks."""
    try:
        check_regular(path)
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except FileNotFoundError as error:
        raise DamagedFile(path.name, "is missing") from error
    except OSError as error:
        raise DamagedFile(path.name, f"cannot be read: {_reason(error)}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # replaced since
        file.close()
        raise DamagedFile(path.name, "is not a regular file")
    return file


def read(path: Path, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes. Raises DamagedFile."""
    with open_regular(path) as file:
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise DamagedFile(path.name, f"cannot be read: {_reason(error)}") from error
    if len(content) > limit:
        raise DamagedFile(path.name, f"is larger than {size_text(limit)}")
    return content


def read_json(path: Path, limit: int) -> Any:
    """The parsed JSON of a file of at most `limit` bytes. Raises DamagedFile."""
    content = read(path, limit)
    try:
        return parse_json(content)
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise DamagedFile(path.name, f"is not valid JSON: {what}") from error


def parse_json(content: bytes) -> Any:
    """Parsed JSON whose texts can be written as UTF-8. Raises ValueError or RecursionError."""
    value = json.loads(content)
    return encodable(value) if b"\\u" in content else value


def encodable(value: Any) -> Any:
    """JSON with lone surrogates, which no file and no answer can hold, replaced by a question mark."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [encodable(item) for item in value]
    return value


def size(path: Path | str) -> int:
    """Bytes of a regular file; 0 for anything else."""
    try:
        status = os.stat(path)  # noqa: PTH116  called often; a Path costs more than the call
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
