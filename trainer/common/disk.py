"""Errors for a full disk."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from trainer.common.errors import UserError
from trainer.common.formatting import size


def disk_full() -> UserError:
    """The error shown when a disk cannot be written to."""
    return UserError(
        "The disk is full or cannot be written to.", "Free some space, then resume: what was saved is kept.", "disk"
    )


def write_failed(error: OSError) -> UserError:
    """The error shown when a file could not be written: a full disk, or what the system says instead."""
    if error.errno in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return disk_full()
    what = (error.strerror or str(error)).lower()
    return UserError(f"The folder cannot be written to: {what}.", "Make it writable, or use another one.", "disk")


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raises UserError if `folder`'s disk has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"The disk has {size(free)} left, and {what} needs {size(needed)}.",
            "Free some space, then resume: it continues from the previous checkpoint.",
            "disk",
        )
