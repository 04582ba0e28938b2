"""Operations on a run from outside its worker: stop, resume, train longer, move to the front of the queue.

States are written while holding the run's turn, and only if the run is still in the expected state.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.common import atomic, bounded_files, file_locks
from trainer.common.disk import write_failed
from trainer.common.errors import InvalidConfig, UserError
from trainer.config.schema import RunConfig
from trainer.config.validation import validate
from trainer.planning import schedule
from trainer.runs import event_log, queue_order
from trainer.runs.history import ACTIVE, ENDED
from trainer.runs.store import Run, RunStore

KILL_PATIENCE = 5.0
"""Seconds to wait until a killed process is gone."""


def record(run: Run, expected: Collection[str], state: str, **values: Any) -> bool:
    """Record a state, if no worker has the run and its recorded state is one of `expected`."""
    with file_locks.turn(run.folder / "lock") as ours:
        if not ours or run.history.refresh().recorded not in expected:
            return False
        event_log.append(run.folder / "events.jsonl", "state", state=state, **values)
    run.history.refresh()
    return True


def stop_run(run: Run) -> str:
    """Stop a run: a queued one at once, a running one after a checkpoint; a second call kills it.

    Returns what was done, as a sentence. A worker that is still starting will find the request.
    """
    message = "Taken out of the queue."
    if run.history.state == "queued" and record(run, ["queued"], "stopped", message=message):
        return message
    state = run.history.refresh().state
    if state not in ACTIVE:
        return f"This run is already {state}."
    again = stop_requests(run) > 0 or state == "stopping"
    _request_stop(run.folder / "stop")
    process = file_locks.holder(run.folder / "lock")
    if process is None or process <= 0:
        return "It will stop as soon as its worker has started."
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL if again else signal.SIGTERM)
    if not again:
        return "Stopping after the current step. Stop again to kill it."
    _record_kill(run)
    return "Killed."


def stop_requests(run: Run) -> int:
    """How often a stop has been requested."""
    return bounded_files.size(run.folder / "stop")


def _request_stop(path: Path) -> None:
    """Not even a full disk prevents a stop, since the worker gets a signal as well."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o644)
        with os.fdopen(handle, "ab") as file:
            file.write(b"!")


def _record_kill(run: Run) -> None:
    deadline = time.monotonic() + KILL_PATIENCE
    while time.monotonic() < deadline and run.history.refresh().recorded in ACTIVE:
        with contextlib.suppress(OSError):
            if record(run, ACTIVE, "stopped", message="Killed by a second stop."):
                return
        time.sleep(0.05)


def resume_run(run: Run, state: str = "queued", worker: str = "", epochs: float = 0) -> None:
    """Queue an ended run again, or mark it as `starting`: it continues from the newest complete checkpoint.

    `epochs`: train for more epochs, even if finished; this adds a new configuration file. Raises UserError for a run
    that has not ended, or has nothing left to do.
    """
    now, recorded = run.history.state, run.history.recorded
    if run.problem or run.config is None or now not in ENDED:
        what = run.problem or f"{run.title} is {now}."
        raise UserError(what, "Only a run that has ended can be resumed.", "data")
    if now == "finished" and not epochs:
        raise UserError(f"{run.title} is finished.", "Specify how many more epochs to train.", "data")
    values: dict[str, Any] = {"worker": worker} if worker else {}
    try:
        if epochs:
            values |= {"config": _save_longer(run, run.config, epochs), "message": f"Trains {epochs:g} more epochs."}
        queue_order.put_last(run.folder, run.folder.parent)
        (run.folder / "stop").unlink(missing_ok=True)
        recorded_now = record(run, [recorded], state, **values)
        queue_order.announce(run.folder.parent)
    except OSError as error:
        raise write_failed(error) from error
    if not recorded_now:
        raise UserError(f"{run.title} is already starting.", "Check its state.", "data")


def put_first(store: RunStore, run_id: str) -> None:
    """Put a queued run at the front of the queue. Raises UserError if it is not queued."""
    run = store.get(run_id)
    if run.history.state != "queued":
        raise UserError(f"{run.title} is {run.history.state}.", "Only a queued run can be put first.", "data")
    waiting = [other.folder for other in store.open_runs() if other.history.recorded == "queued"]
    try:
        queue_order.put_first(run.folder, waiting)
    except OSError as error:
        raise write_failed(error) from error


def _save_longer(run: Run, config: RunConfig, epochs: float) -> str:
    """Write the next numbered configuration. Raises UserError for an invalid number of epochs."""
    if not math.isfinite(epochs) or epochs <= 0:
        raise UserError(f"{epochs} is not a valid number of epochs.", "Enter a number above 0.", "data")
    longer = replace(config, training=schedule.extended(config.training, epochs, run.history.examples))
    issues = validate(longer)
    if issues:
        raise InvalidConfig(issues)
    name = f"config-{1 + max([1, *map(_number, run.folder.glob('config-*.json'))])}.json"
    atomic.write_json(run.folder / name, longer.to_json())
    return name


def _number(path: Any) -> int:
    text = path.stem.rpartition("-")[2]
    return int(text) if text.isdecimal() else 1
