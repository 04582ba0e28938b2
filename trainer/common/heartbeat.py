"""Signs of life of a worker: a file in its run folder, which the training thread itself renews as it advances.

A thread of its own would only prove that the process exists. The worker also writes which silence is normal, since
only it knows what it is doing and how long that has taken so far. Times are those of the monotonic clock: the
processes of a machine share it, setting the clock does not change it, and it stands still while the machine sleeps.

It also says what the worker does outside of its steps (`task`), with the share that is done where that is known.

A process has at most one heartbeat, so these functions may be called anywhere; without one, they do nothing.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import json
import os
import platform
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trainer.common import atomic, bounded_files
from trainer.common.bounded_files import DamagedFile
from trainer.common.plain_text import one_line

FILE = "heartbeat"
SIZE = 256
"""Bytes of the file: one row of JSON, padded, so that it is rewritten in place, even on a full disk."""
MAX_TASK = 60
INTERVAL = 1.0
"""Seconds between writes, at least."""
LEAST_LIMIT = 120.0
"""Seconds without a sign of life that are always normal."""
FACTOR = 10
"""A silence is normal up to this many times the longest of the recent ones, of which OUTLIERS do not count."""
RECENT, OUTLIERS = 256, 2
UNMEASURED_LIMIT = 1800.0
"""The same for what has no measured pace: loading, compiling, saving, the first steps."""
STARTING, TRAINING, EVALUATING, SAMPLING, SAVING = "starting", "training", "evaluating", "sampling", "saving"
MEASURED = (TRAINING, EVALUATING, SAMPLING)
"""Phases of many equal parts; the first part compiles and allocates, so it does not count."""

WAITING = "Waiting for the device"
"""The task of a run whose device another one has."""
_TASKS = {EVALUATING: "Evaluating", SAMPLING: "Answering sample prompts", SAVING: "Saving"}


class Silence(NamedTuple):
    """A silence that is longer than normal."""

    worker: int
    """Process id."""
    seconds: float
    phase: str


class Activity(NamedTuple):
    """What a worker is doing."""

    task: str
    """Such as `Loading the weights`; empty while it takes steps."""
    share: float | None
    """The share of the task that is done, from 0 to 1; None if unknown."""


NOTHING = Activity("", None)


class _Pace:
    """How long the parts of a phase take."""

    def __init__(self) -> None:
        self._is_first = True
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, seconds: float) -> None:
        if not self._is_first:
            self._recent.append(seconds)
        self._is_first = False

    def limit(self) -> float:
        longest = heapq.nlargest(1 + OUTLIERS, self._recent)
        return max(LEAST_LIMIT, FACTOR * longest[-1]) if len(longest) > OUTLIERS else UNMEASURED_LIMIT


class _Heartbeat:
    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # whatever is there
        self._path, self._file = path, path.open("xb", buffering=0)
        self._paces = {name: _Pace() for name in MEASURED}
        self._last = self._written = 0.0
        self.phase = ""
        self.enter(STARTING)

    def enter(self, phase: str) -> None:
        self.phase, self._last = phase, time.monotonic()
        self.activity = Activity(_TASKS.get(phase, ""), None)
        self._write()

    def set(self, activity: Activity) -> None:
        is_new = activity.task != self.activity.task
        self.activity = activity
        if is_new:
            self._last = time.monotonic()
            self._write()
        else:
            self.beat()

    def beat(self) -> None:
        now = time.monotonic()
        if self.phase in MEASURED:
            self._paces[self.phase].add(now - self._last)
        self._last = now
        if now - self._written >= INTERVAL:
            self._write()

    def _write(self) -> None:
        self._written = self._last
        pace = self._paces.get(self.phase)
        limit = pace.limit() if pace else UNMEASURED_LIMIT
        row = _row(os.getpid(), self._last, self.phase, limit, self.activity)
        try:
            os.pwrite(self._file.fileno(), row, 0)
        except OSError:
            self.end()  # better no heartbeat than one that seems to have stopped

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


_current: _Heartbeat | None = None


def announce(folder: Path, worker: int) -> None:
    """The first sign of life of a process that is about to work on a run, on its behalf."""
    with contextlib.suppress(OSError):
        atomic.write(folder / FILE, _row(worker, time.monotonic(), STARTING, UNMEASURED_LIMIT), durable=False)


def start(folder: Path) -> None:
    """Begin this process's heartbeat, in a run folder; without one if the disk refuses it."""
    global _current
    with contextlib.suppress(OSError):
        _current = _Heartbeat(folder / FILE)


def end() -> None:
    """End this process's heartbeat and remove its file."""
    global _current
    if _current is not None:
        _current.end()
    _current = None


def beat() -> None:
    """Show a sign of life. Call it where the training thread has advanced."""
    if _current is not None:
        _current.beat()


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Within the context, the process is in this phase."""
    before = _current.phase if _current is not None else ""
    if _current is not None:
        _current.enter(name)
    try:
        yield
    finally:
        if _current is not None:
            _current.enter(before)


def task(name: str) -> None:
    """Show what the process is busy with from now on, in a few words; the next phase ends it."""
    if _current is not None and _current.activity.task != name:
        _current.set(Activity(name, None))


def progress(done: float, total: float) -> None:
    """Show a sign of life, and how much of the current task is done."""
    if _current is not None and total > 0:
        _current.set(Activity(_current.activity.task, min(done / total, 1.0)))


def activity(folder: Path, worker: int) -> Activity:
    """What this worker is doing, as far as it is known; `worker`: its process id."""
    try:
        row = _read(folder, worker)
        name, share = str(row.get("task", ""))[:MAX_TASK], row.get("share")
        return Activity(one_line(name), None if share is None else min(max(float(share), 0.0), 1.0))
    except (DamagedFile, ValueError, TypeError, KeyError):
        return NOTHING


def silence(folder: Path, worker: int) -> Silence | None:
    """How long this worker has shown no sign of life, if longer than normal; None if not, or if it cannot be known.

    `worker`: its process id. A heartbeat of another process or machine says nothing.
    """
    try:
        row = _read(folder, worker)
        seconds, limit, name = time.monotonic() - float(row["time"]), float(row["limit"]), str(row["phase"])
    except (DamagedFile, ValueError, TypeError, KeyError):
        return None
    return Silence(worker, seconds, name) if seconds > limit else None


def _read(folder: Path, worker: int) -> dict[str, Any]:
    """The row of this worker. Raises DamagedFile, TypeError or KeyError."""
    row: dict[str, Any] = bounded_files.read_json(folder / FILE, SIZE)
    if (row["worker"], row["boot"]) != (worker, _boot()):
        raise KeyError(worker)
    return row


def _row(worker: int, moment: float, phase: str, limit: float, activity: Activity = NOTHING) -> bytes:
    row = {"worker": worker, "boot": _boot(), "time": round(moment, 3), "phase": phase, "limit": round(limit, 3)}
    if activity.task:
        row["task"] = activity.task[:MAX_TASK]
        row["share"] = activity.share if activity.share is None else round(activity.share, 3)
    return json.dumps(row).encode().ljust(SIZE)


@functools.cache
def _boot() -> str:
    """A name of this machine since it was started: only its own processes share its monotonic clock."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return platform.node()
