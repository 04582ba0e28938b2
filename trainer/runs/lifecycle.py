"""Operations on a run from outside its worker: stop, kill, resume, train longer, move to the front of the queue.

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
from trainer.common.heartbeat import Silence
from trainer.config.schema import RunConfig
from trainer.config.validation import validate
from trainer.planning import schedule
from trainer.runs import event_log, failures, queue_order
from trainer.runs.history import ACTIVE, ENDED
from trainer.runs.run import Run
from trainer.runs.store import RunStore

KILL_PATIENCE = 5.0
"""Seconds to wait until a killed process is gone."""
STOP, HUNG = "stop", "hung"
"""Files of a run folder: one byte per stop request; why a hung worker was killed."""
MAX_MESSAGE = 4096
KILLED = "Killed."
UNKILLABLE = "Killed, but the system cannot end it yet: it is waiting for a drive or a device."


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
    _request_stop(run.folder / STOP)
    silence = run.history.silence()
    process = silence.worker if silence else file_locks.holder(run.folder / "lock")
    if process is None or process <= 0:
        return "It will stop as soon as its worker has started."
    if again:
        return _kill(run, process, silence)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
    if silence:
        return f"Asked to stop. {failures.no_sign_of_life(silence)} Stop again to kill it."
    when = "after the current step" if run.history.step else "before the first step"
    return f"Stopping {when}. Stop again to kill it."


def kill_hung(run: Run) -> str:
    """Kill a worker that shows no sign of life; its run has failed with cause `hung`. Returns what was done.

    Raises UserError if the worker is alive after all, so that what it has not saved yet is not lost.
    """
    silence = run.history.refresh().silence()
    if silence is None:
        raise UserError(
            f"{run.title} shows signs of life, or has ended.", "Stop it instead: that saves it first.", "data"
        )
    return _kill(run, silence.worker, silence)


def stop_requests(run: Run) -> int:
    """How often a stop has been requested."""
    return bounded_files.size(run.folder / STOP)


def _request_stop(path: Path) -> None:
    """Not even a full disk prevents a stop, since the worker gets a signal as well."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o644)
        with os.fdopen(handle, "ab") as file:
            file.write(b"!")


def forget_requests(folder: Path) -> None:
    """Remove what an earlier worker of the run was asked for."""
    for name in (STOP, HUNG):
        (folder / name).unlink(missing_ok=True)


def requested_death(run: Run) -> dict[str, str]:
    """State, cause and message of a run whose worker was killed on request; empty if nobody asked for it."""
    with contextlib.suppress(bounded_files.DamagedFile):  # if it is not there
        return _hung(bounded_files.read(run.folder / HUNG, MAX_MESSAGE).decode(errors="replace"))
    return _stopped_twice() if stop_requests(run) else {}


def _kill(run: Run, process: int, silence: Silence | None) -> str:
    """Kill the worker, and record it once the process is gone. Returns what was done."""
    death = _stopped_twice()
    if silence:
        death = _hung(failures.killed_hung(silence))
        with contextlib.suppress(OSError):  # for whoever else may record it
            atomic.write(run.folder / HUNG, death["message"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + KILL_PATIENCE
    while time.monotonic() < deadline and run.history.refresh().recorded in ACTIVE:
        with contextlib.suppress(OSError):
            if record(run, ACTIVE, **death):
                return KILLED
        time.sleep(0.05)
    return UNKILLABLE if run.history.recorded in ACTIVE else KILLED


def _hung(message: str) -> dict[str, str]:
    return {"state": "failed", "cause": "hung", "message": message}


def _stopped_twice() -> dict[str, str]:
    return {"state": "stopped", "message": "Killed by a second stop."}


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
        forget_requests(run.folder)
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
