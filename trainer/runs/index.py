"""runs/.index.json: cached summaries of ended runs, so that thousands of them are listed at once.

Derived and disposable: an entry is valid as long as its run's files are unchanged, and the index as long as the code
that made it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from trainer.common import atomic, bounded_files
from trainer.common.bounded_files import DamagedFile

FILE = ".index.json"
SOURCES = ("events.jsonl", "config.json", "title", "plan.json")
"""Files of a run folder that its summary depends on; the first one changes with every event."""
MAX_BYTES = 256_000_000
"""About a kilobyte per run."""
Stamp = list[int]


def stamp(folder: str) -> Stamp:
    """Time of the last change and size of each of SOURCES; zeros for a missing file."""
    result = []
    for name in SOURCES:
        result += stamp_of(f"{folder}/{name}")
    return result


def stamp_of(path: str) -> Stamp:
    try:
        status = os.stat(path)  # noqa: PTH116 - called thousands of times a second; a Path costs more than the call
    except OSError:
        return [0, 0]
    return [status.st_ctime_ns, status.st_size]  # a repaired permission only changes this time


class Index:
    """Run id -> stamp and summary."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._entries: dict[str, tuple[Stamp, dict[str, Any]]] = {}
        self._changed = False
        self._code = _code()
        try:
            value = bounded_files.read_json(self._path, MAX_BYTES)
            if value["code"] == self._code:
                self._entries = {key: _entry(*entry) for key, entry in value["runs"].items()}
        except (DamagedFile, KeyError, TypeError, AttributeError):
            self._entries = {}

    def get(self, run_id: str, now: Stamp) -> dict[str, Any] | None:
        """The cached summary, if the run is unchanged."""
        entry = self._entries.get(run_id)
        return entry[1] if entry and entry[0] == now else None

    def has_ended(self, run_id: str, now: Stamp) -> bool:
        """Whether the run has ended, judging by an unchanged events.jsonl."""
        entry = self._entries.get(run_id)
        return bool(entry and entry[0][:2] == now)

    def put(self, run_id: str, then: Stamp, summary: dict[str, Any]) -> None:
        self._entries[run_id] = (then, summary)
        self._changed = True

    def keep(self, ids: set[str]) -> None:
        """Forget runs that no longer exist."""
        for run_id in self._entries.keys() - ids:
            del self._entries[run_id]
            self._changed = True

    def save(self) -> None:
        """Write the file if anything changed; if that fails, the next reader rebuilds the summaries."""
        if not self._changed:
            return
        self._changed = False
        with contextlib.suppress(OSError):
            atomic.write(self._path, json.dumps({"code": self._code, "runs": self._entries}), durable=False)


def _entry(stamp: Stamp, summary: dict[str, Any]) -> tuple[Stamp, dict[str, Any]]:
    """An entry as it was written. Raises TypeError or KeyError for a damaged one."""
    if not isinstance(stamp, list) or set(map(type, stamp)) != {int}:
        raise TypeError
    return stamp, {"id": summary["id"], "state": summary["state"]} | summary


def _code() -> str:
    """A hash of the code that makes summaries."""
    digest = hashlib.sha256()
    for name in ("run.py", "history.py", "event_rows.py", "metrics_file.py", "plan_file.py", "index.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:16]
