"""What the user sees when a disk is full."""

from __future__ import annotations

import shutil
from pathlib import Path

from trainer.common.errors import UserError
from trainer.common.formatting import size


def disk_full() -> UserError:
    """What the user sees when a disk takes no more data."""
    return UserError(
        "The disk is full, or refuses to write.", "Free some space, then resume: what was saved is kept.", "disk"
    )


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raises UserError if `folder`'s disk has no room for `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"The disk has {size(free)} left, and {what} needs {size(needed)}.",
            "Free some space, then resume: it goes on from the checkpoint before.",
            "disk",
        )
