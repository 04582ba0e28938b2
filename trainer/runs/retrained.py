"""retrained.json: which run trained a run's configuration again without some of its kinds."""

from __future__ import annotations

from pathlib import Path

from trainer.common import atomic, bounded_files
from trainer.common.bounded_files import DamagedFile

FILE = "retrained.json"
MAX_BYTES = 4096


def record(folder: Path, run_id: str) -> None:
    """Name the newest such run. Raises OSError."""
    atomic.write_json(folder / FILE, {"run": run_id})


def read(folder: Path) -> str:
    """Id of the newest such run, which may have been deleted; empty if there is none."""
    try:
        value = bounded_files.read_json(folder / FILE, MAX_BYTES)
    except DamagedFile:
        return ""
    found = value.get("run") if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""
