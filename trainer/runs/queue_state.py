"""What a queued run waits for: its place, who has the devices, and for how long."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from trainer.common import device_holder, devices
from trainer.common.device_holder import Holder
from trainer.common.formatting import about, ordinal
from trainer.config.schema import ModelConfig
from trainer.runs import duration_estimates, queue_order
from trainer.runs.duration_estimates import Pace
from trainer.runs.history import ACTIVE, History
from trainer.runs.run import Run
from trainer.runs.store import RUN_ID, RunStore

PACE_SECONDS = 30
"""Seconds for which the paces of earlier runs are cached: the page asks every second."""


@dataclass(frozen=True)
class Wait:
    """What a queued run waits for."""

    place: int
    """In the queue of its runs folder, from 1."""
    of: int
    holders: tuple[str, ...]
    """Who has the devices, a clause each."""
    is_free: bool
    """Whether a device is free."""
    seconds: float | None
    """Estimated seconds until it starts; None if unknown."""

    def __str__(self) -> str:
        if self.is_free and self.place == 1:
            return "Starts in a moment."
        place = f"{ordinal(self.place)} of {self.of} in the queue." if self.of > 1 else "Next in the queue."
        holders = "; ".join(self.holders)
        starts = f"Starts in {about(self.seconds)}." if self.seconds is not None else ""
        return " ".join(filter(None, (place, f"{holders}." if holders else "", starts)))


def in_order(store: RunStore) -> list[Run]:
    """The queued runs that can start, the next one first."""
    queued = [run for run in store.open_runs() if run.can_start]
    return sorted(queued, key=lambda run: (queue_order.place(run.folder), run.id))


def wait_of(store: RunStore, run: Run) -> Wait:
    """What a queued run waits for."""
    queue = in_order(store)
    place = next((number for number, other in enumerate(queue) if other.id == run.id), len(queue))
    names = devices.devices()
    clauses, lefts = _running(store, names)
    free = len(names) - len(lefts)
    ahead = [_left(store, other) for other in queue[:place]]
    seconds = _turn([*[0.0] * free, *lefts], ahead)
    return Wait(place + 1, max(len(queue), place + 1), tuple(clauses), free > 0, seconds)


def holders(store: RunStore) -> str:
    """Who has the devices, as a sentence; empty if they are free."""
    clauses, _ = _running(store, devices.devices())
    return f"{'; '.join(clauses)}." if clauses else ""


def _running(store: RunStore, names: Sequence[str]) -> tuple[list[str], list[float | None]]:
    """Who has the devices, a clause each, and the seconds for which each will, None if unknown."""
    clauses, lefts, seen = [], [], set()
    for name in names:
        if not devices.is_taken(name):
            continue
        called = "the device" if len(names) == 1 else name
        holder = device_holder.read(name)
        run = _run_of(store, holder) if holder else None
        if holder is None:
            clauses.append(f"Another program has {called}")
        else:
            seen.add(holder.run)
            named = replace(holder, title=run.title) if run and run.folder.parent == store.folder else holder
            clauses.append(named.describe(called, store.folder))
        lefts.append(_left(store, run) if run else None)
    for run in store.open_runs():  # those that have not locked their device yet
        if run.history.state in ACTIVE and run.id not in seen and len(lefts) < len(names):
            clauses.append(f"“{run.title}” is starting")
            lefts.append(_left(store, run))
    return clauses, lefts


def _run_of(store: RunStore, holder: Holder) -> Run | None:
    """The run that has a device; None if its folder cannot be read or belongs to another user."""
    folder = Path(holder.folder)
    try:
        if not RUN_ID.fullmatch(holder.run) or (folder / holder.run).stat().st_uid != os.getuid():
            return None
    except (OSError, ValueError):
        return None
    return store.get(holder.run) if folder == store.folder else _foreign(folder / holder.run).refresh()


@lru_cache(maxsize=8)
def _foreign(folder: Path) -> Run:
    """A run of another runs folder; it is kept, so that a refresh only reads new events."""
    return Run(folder, None, "", History(folder))


def _left(store: RunStore, run: Run) -> float | None:
    """Estimated seconds that a queued or active run still takes; None if unknown."""
    history = run.history
    if history.recorded != "queued" and (remaining := history.remaining()) is not None:
        return max(0.0, remaining - history.idle())
    if run.config is None:
        return None
    paces = _paces(store, run.config.model, int(time.monotonic() / PACE_SECONDS))
    whole = duration_estimates.seconds(run.config, paces)
    done = history.step / history.steps if history.steps else 0.0
    return None if whole is None else whole * max(0.0, 1 - done)


@lru_cache(maxsize=16)
def _paces(store: RunStore, model: ModelConfig, _period: int) -> list[Pace]:
    return duration_estimates.paces(store, model)


def _turn(running: Sequence[float | None], ahead: Sequence[float | None]) -> float | None:
    """Seconds until the next device is free, after the runs `ahead`; None if one of them takes an unknown time."""
    known = [seconds for seconds in running if seconds is not None]
    if len(known) < len(running) or not known:
        return None
    heapq.heapify(known)
    for seconds in ahead:
        if seconds is None:
            return None
        heapq.heappush(known, heapq.heappop(known) + seconds)
    return known[0]
