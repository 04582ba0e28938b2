"""Run folders: create, list, open, rename, delete. The folder is a run's only source of truth."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from trainer.common import atomic, file_locks
from trainer.common.disk import write_failed
from trainer.common.errors import UserError
from trainer.common.plain_text import one_line
from trainer.config.schema import RunConfig
from trainer.planning.plan import Plan
from trainer.runs import event_log, queue_order
from trainer.runs.history import ENDED, History
from trainer.runs.index import Index, Stamp, stamp, stamp_of
from trainer.runs.run import MAX_TITLE, Run

RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
FULL_SCAN_SECONDS = 30.0
"""Interval at which all runs are scanned, for those that were not added by the queue."""
SETTLED = 2_000_000_000
"""Nanoseconds after its last change from which a folder's listing is not read again."""
CACHED_RUNS = 64
"""Ended runs whose histories stay in memory; those of queued and running ones always do, as they are read often."""


class RunStore:
    """All runs in one folder. Histories are cached, so that a refresh only reads new events.

    Creates the folder if needed. Raises UserError if it cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.folder = folder.resolve()
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = (error.strerror or str(error)).lower()
            raise UserError(
                f"The runs folder {folder} cannot be used: {what}.", "Name another one with --runs-dir.", "disk"
            ) from error
        self._runs: dict[str, Run] = {}
        self._lock = threading.RLock()
        self._index = Index(self.folder)
        self._open: list[str] = []
        self._known: tuple[int, list[str]] = 0, []
        """When the folder last changed, and the ids that it held; 0 if that was too recent to be sure."""
        self._queue_stamp: Stamp = []
        self._scanned = 0.0

    def create(self, config: RunConfig, plan: Plan, state: str = "queued", worker: str = "", run_id: str = "") -> Run:
        """Create a run folder atomically. `run_id`: from `new_id`, if it must be known in advance.

        State `starting`, with the identity of the process that will train it, keeps an app from launching it as well.
        Raises UserError if the disk is full.
        """
        run_id = run_id or new_id()
        try:
            with atomic.new_folder(self.folder / run_id) as draft:
                atomic.write_json(draft / "config.json", config.to_json())
                planned = plan.to_json()
                atomic.write_json(draft / "plan.json", planned)
                queue_order.put_last(draft, self.folder)
                events = draft / "events.jsonl"
                event_log.append(events, "state", state=state, **({"worker": worker} if worker else {}))
                if commit := planned.get("base", {}).get("commit"):  # train what the user saw
                    event_log.append(events, "base", revision=config.model.revision, commit=commit)
            queue_order.announce(self.folder)
        except OSError as error:
            raise write_failed(error) from error
        return self.get(run_id)

    def ids(self) -> list[str]:
        """Ids of all runs, newest first."""
        now, (changed, _) = time.time_ns(), stamp_of(str(self.folder))
        known_at, known = self._known
        if changed and changed == known_at:
            return known.copy()
        with os.scandir(self.folder) as entries:
            ids = sorted((entry.name for entry in entries if RUN_ID.fullmatch(entry.name)), reverse=True)
        # a change in the same tick of the disk's clock as the last one would not be seen
        self._known = (changed if now - changed > SETTLED else 0), ids.copy()
        return ids

    def get(self, run_id: str) -> Run:
        """The run `run_id`, its history refreshed. Raises UserError if there is none."""
        folder = self.folder / run_id
        if not RUN_ID.fullmatch(run_id) or not os.path.isdir(folder):  # noqa: PTH112  never raises
            raise UserError(f"There is no run {run_id[:60]!r}.", "Choose one from the list of runs.", "data")
        with self._lock:
            run = self._runs.pop(run_id, None)
            if run is None:
                run = Run(folder, None, "", History(folder))
                ended = [key for key, item in self._runs.items() if item.history.recorded in ENDED]
                for key in ended[:-CACHED_RUNS]:
                    del self._runs[key]
            self._runs[run_id] = run  # least recently used first
        return run.refresh()

    def all(self) -> list[Run]:
        """All runs, newest first, without those deleted in the meantime."""
        return [run for run in map(self._try, self.ids()) if run is not None]

    def summaries(self) -> list[dict[str, Any]]:
        """Summaries of all runs, newest first. Ended runs are only opened if they changed."""
        ids = self.ids()
        with self._lock:
            self._index.keep(set(ids))
            rows = [self._summary(run_id, stamp(f"{self.folder}/{run_id}")) for run_id in ids]
            self._index.save()
        return [row for row in rows if row is not None]

    def summary(self, run_id: str) -> dict[str, Any] | None:
        """The summary of one run, None if there is none. An ended run is only opened if it changed."""
        with self._lock:
            return self._summary(run_id, stamp(f"{self.folder}/{run_id}"))

    def open_runs(self) -> list[Run]:
        """Runs that are not recorded as ended, oldest first. All runs are only scanned after one was queued."""
        queue_stamp = stamp_of(f"{self.folder}/{queue_order.COUNTER}")
        with self._lock:
            if queue_stamp != self._queue_stamp or time.monotonic() - self._scanned > FULL_SCAN_SECONDS:
                self._queue_stamp, self._scanned = queue_stamp, time.monotonic()
                self._open = [run_id for run_id in reversed(self.ids()) if not self._has_ended(run_id)]
            runs = [run for run in map(self._try, self._open) if run is not None]
            still_open = [run for run in runs if run.history.recorded not in ENDED]
            self._open = [run.id for run in still_open]
        return still_open

    def _has_ended(self, run_id: str) -> bool:
        """Whether a run is recorded as ended; if that is cached, only the time of its last event is read."""
        folder = f"{self.folder}/{run_id}"
        if self._index.has_ended(run_id, stamp_of(f"{folder}/events.jsonl")):
            return True
        self._summary(run_id, stamp(folder))
        return self._index.has_ended(run_id, stamp_of(f"{folder}/events.jsonl"))

    def _summary(self, run_id: str, now: Stamp) -> dict[str, Any] | None:
        row = self._index.get(run_id, now)
        if row is not None:
            return row
        run = self._try(run_id)
        if run is None:
            return None
        row = run.summary()
        if run.history.recorded in ENDED and not run.lock_problem:
            self._index.put(run_id, now, row)
        return row

    def _try(self, run_id: str) -> Run | None:
        """The run, or None if it was deleted in the meantime."""
        try:
            return self.get(run_id)
        except UserError:
            return None

    def rename(self, run_id: str, title: str) -> None:
        """Give a run another title: plain text of at most MAX_TITLE characters. Raises UserError for an empty one."""
        run = self.get(run_id)
        text = one_line(title, MAX_TITLE)
        if not text:
            raise UserError("The name is empty.", "Enter one.", "data")
        try:
            atomic.write(run.folder / "title", text)
        except OSError as error:
            raise write_failed(error) from error

    def delete(self, run_id: str) -> None:
        """Remove a run for good. Raises UserError while it runs."""
        run = self.get(run_id)
        trash = self.folder / f".deleted-{run_id}"
        state = run.history.state
        turn = contextlib.nullcontext(True) if run.lock_problem else file_locks.turn(run.folder / "lock")
        try:
            with turn as ours:
                if not ours or state not in (*ENDED, "queued"):
                    raise UserError(f"{run.title} is still running.", "Stop it first, then delete it.", "data")
                run.folder.rename(trash)
        except OSError as error:
            raise write_failed(error) from error
        with self._lock:
            self._runs.pop(run_id, None)
        if trash.is_symlink():
            trash.unlink()  # what a link leads to is not ours
        shutil.rmtree(trash, ignore_errors=True)


def new_id() -> str:
    """A new run id, from the current time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
