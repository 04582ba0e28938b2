"""Uploaded data files: size, quota, harmless names. What is in them, `sources.py` reads."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from trainer.common import atomic, disk_cache, formatting
from trainer.common.disk import write_failed
from trainer.common.errors import UserError

MAX_UPLOAD_BYTES = 6 * 2**30
QUOTA_BYTES = 20 * 2**30
"""All uploaded data together, with what was made of them."""


def keep_data(file: Path, data_dir: Path) -> str:
    """Copy a data file into `data_dir` under a name of its content's hash and its own, made harmless.

    Raises UserError for a file that cannot be read, is too large, or has no room left.
    """
    return _keep(file, data_dir, _copy)


def take_upload(upload: Path, data_dir: Path) -> str:
    """As `keep_data`, but moves the file: an upload is removed whether it is kept or refused."""
    try:
        return _keep(upload, data_dir, _move)
    finally:
        with contextlib.suppress(OSError):
            upload.unlink()


def _keep(file: Path, data_dir: Path, store: Callable[[Path, Path], None]) -> str:
    try:
        size = file.stat().st_size
        if size > MAX_UPLOAD_BYTES or not file.is_file():
            raise UserError(
                f"{safe_name(file.name)} is not a file of at most {formatting.size(MAX_UPLOAD_BYTES)}.",
                "Split it.",
                "data",
            )
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()[:12]
        name = f"{digest}-{safe_name(file.name)}"
        data_dir.mkdir(parents=True, exist_ok=True)
        if not (data_dir / name).exists():
            make_room((data_dir,), size)
            store(file, data_dir / name)
    except OSError as error:
        raise UserError(
            f"{safe_name(file.name)} cannot be read: {error.strerror}.", "Choose another file.", "data"
        ) from error
    return name


def _copy(file: Path, target: Path) -> None:
    """Raises OSError if `file` cannot be read, UserError if the copy cannot be written."""
    with file.open("rb") as source:
        try:
            with atomic.new_file(target) as draft:
                shutil.copyfileobj(source, draft)
        except OSError as error:
            raise write_failed(error) from error


def _move(file: Path, target: Path) -> None:
    try:
        atomic.publish(file, target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # `data` may be a link to another disk
            raise
        _copy(file, target)


def safe_name(name: str) -> str:
    """A file name of plain letters that hides nothing and leads nowhere; its end, which tells its kind, stays."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[-80:].lstrip(".-") or "data"


def check_room(folders: Iterable[Path], size: int) -> None:
    """Raise UserError if `size` more bytes would exceed the quota even without the cache. Changes nothing."""
    _require_room({folder: _size(folder) - _size(folder / disk_cache.FOLDER) for folder in folders}, size)


def make_room(folders: Iterable[Path], size: int) -> None:
    """Evict from the cache until `size` more bytes fit the quota. Raises UserError if that is not enough."""
    used = {folder: _size(folder) for folder in folders}
    for folder in used:
        excess = sum(used.values()) + size - QUOTA_BYTES
        if excess > 0:
            used[folder] -= disk_cache.drop(folder, excess)
    _require_room(used, size)


def _require_room(used: Mapping[Path, int], size: int) -> None:
    """Raise UserError, which names the folder that holds most, if `size` more bytes exceed the quota."""
    if sum(used.values()) + size <= QUOTA_BYTES:
        return
    fullest = max(used, key=lambda folder: used[folder])
    is_data = fullest.name == "data"
    fix = "Remove files that no run needs from it." if is_data else "Wait until other uploads have ended."
    raise UserError(
        f"There is no room for {formatting.size(size)} more: uploaded data has a quota of "
        f"{formatting.size(QUOTA_BYTES)}, and the folder `{fullest.name}` in the runs folder holds "
        f"{formatting.size(used[fullest])}.",
        fix,
        "disk",
    )


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118
    return total
