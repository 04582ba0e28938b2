"""Checkpoint markers: transformers' checkpoints are not atomic, so each gets a marker once it is complete."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

from trainer.common import atomic

MARKER = "complete.json"
CHECKPOINTS_KEPT = 2
"""Checkpoints to keep per run, so that there is another one if the newest is damaged."""
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(checkpoint: Path) -> None:
    """Write the marker: name, size and sha256 of every file."""
    files = {
        str(path.relative_to(checkpoint)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != MARKER
    }
    atomic.write_json(checkpoint / MARKER, files)


def is_complete(checkpoint: Path) -> bool:
    """Whether every file that the marker names is there with its size and content."""
    try:
        files = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
        return all(
            (checkpoint / name).stat().st_size == facts["bytes"] and _sha256(checkpoint / name) == facts["sha256"]
            for name, facts in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def newest_complete(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`; removes newer damaged ones, which are of no use."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    for checkpoint in sorted(found, key=_step, reverse=True):
        if is_complete(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def remove_old(folder: Path) -> None:
    """Remove all but the newest CHECKPOINTS_KEPT checkpoints, markers first, so a marked one is always complete.

    transformers' own `save_total_limit` removes old ones before the new one is marked, in any file order.
    """
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    for checkpoint in sorted(found, key=_step, reverse=True)[CHECKPOINTS_KEPT:]:
        (checkpoint / MARKER).unlink(missing_ok=True)
        shutil.rmtree(checkpoint, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove checkpoints without a marker, such as what a full disk left of one."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / MARKER).exists():
            shutil.rmtree(checkpoint, ignore_errors=True)


def bytes_of_newest(folder: Path) -> int:
    """Size of the newest marked checkpoint; 0 if there is none."""
    marked = [path for path in folder.glob("checkpoint-*") if (path / MARKER).exists()]
    if not marked:
        return 0
    return sum(path.stat().st_size for path in max(marked, key=_step).rglob("*") if path.is_file())


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
