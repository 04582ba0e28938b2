"""Uploaded data files: size, quota, harmless names. What is in them, `sources.py` reads."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from trainer.common import atomic, disk_cache, formatting
from trainer.common.disk import write_failed
from trainer.common.errors import UserError

MAX_UPLOAD_BYTES = 6 * 2**30
QUOTA_BYTES = 20 * 2**30
"""All uploaded data together, with what was made of them."""


def keep_data(upload: Path, data_dir: Path) -> str:
    """Copy a data file into `data_dir` under a name of its content's hash and its own, made harmless.

    Raises UserError for a file that cannot be read, is too large, or has no room left.
    """
    try:
        size = upload.stat().st_size
        if size > MAX_UPLOAD_BYTES or not upload.is_file():
            raise UserError(
                f"{safe_name(upload.name)} is not a file of at most {formatting.size(MAX_UPLOAD_BYTES)}.",
                "Split it.",
                "data",
            )
        with upload.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        name = f"{digest}-{safe_name(upload.name)}"
        data_dir.mkdir(parents=True, exist_ok=True)
        if not (data_dir / name).exists():
            check_room((data_dir,), size)
            _copy(upload, data_dir / name)
    except OSError as error:
        raise UserError(
            f"{safe_name(upload.name)} cannot be read: {error.strerror}.", "Choose another file.", "data"
        ) from error
    return name


def _copy(upload: Path, target: Path) -> None:
    """Raises OSError if `upload` cannot be read, UserError if the copy cannot be written."""
    with upload.open("rb") as source:
        try:
            with atomic.new_file(target) as file:
                shutil.copyfileobj(source, file)
        except OSError as error:
            raise write_failed(error) from error


def take_upload(upload: Path, data_dir: Path) -> str:
    """As `keep_data`; the upload itself goes, kept or refused."""
    try:
        return keep_data(upload, data_dir)
    finally:
        with contextlib.suppress(OSError):
            upload.unlink()


def safe_name(name: str) -> str:
    """A file name of plain letters that hides nothing and leads nowhere; its end, which tells its kind, stays."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[-80:].lstrip(".-") or "data"


def check_room(folders: Iterable[Path], size: int) -> None:
    """Refuse `size` more bytes where the quota would be passed even without the cache. Raises UserError."""
    folders = list(folders)
    used = sum(_size(folder) for folder in folders)
    for folder in folders:
        if used + size > QUOTA_BYTES:
            used -= disk_cache.drop(folder, used + size - QUOTA_BYTES)
    if used + size > QUOTA_BYTES:
        raise UserError(
            f"Uploaded data would pass its quota of {formatting.size(QUOTA_BYTES)}.",
            "Remove files that no run needs from the data folder below the runs folder.",
            "disk",
        )


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118
    return total
