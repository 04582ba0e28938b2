"""Who may read what the programs write: their user alone, except for files that the user names.

Run folders hold training data, uploads, and models that may be confidential.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PRIVATE = 0o077
_users_umask: int | None = None


def keep_private() -> None:
    """From now on, this process and its children make files 0600 and folders 0700."""
    global _users_umask
    former = os.umask(PRIVATE)
    if _users_umask is None:
        _users_umask = former


def make_ordinary(file: Path) -> None:
    """Give a file that the user named, such as a report, the mode that the user's other programs give theirs."""
    if _users_umask is not None:
        file.chmod(0o666 & ~_users_umask)


@contextlib.contextmanager
def ordinary() -> Iterator[None]:
    """Within the block, files get the user's ordinary modes: the hub's cache may be shared by several users."""
    if _users_umask is None:
        yield
        return
    os.umask(_users_umask)
    try:
        yield
    finally:
        os.umask(PRIVATE)
