"""Errors for a full disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from trainer.common.errors import UserError
from trainer.common.formatting import size


def disk_full() -> UserError:
    """The error shown when a disk cannot be written to."""
    return UserError(
        "The disk is full or cannot be written to.", "Free some space, then resume: what was saved is kept.", "disk"
    )


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raises UserError if `folder`'s disk has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"The disk has {size(free)} left, and {what} needs {size(needed)}.",
            "Free some space, then resume: it continues from the previous checkpoint.",
            "disk",
        )
