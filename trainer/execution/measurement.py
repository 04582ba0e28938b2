"""python -m trainer.execution.measurement TASK RUN_DIR MODELS_DIR DATA_DIR: measures a run that has ended.

`TASK`: `attribution` for what each module earned, `cut_down` for what the adapter loses with lower ranks. Prints
lines of JSON: any number of {"progress": [stage, share]}, then {"done": true} or {"problem": …}. It ends with the
app, which holds its standard input open.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from trainer.common import devices, file_locks, file_modes, heartbeat, redaction
from trainer.common.device_holder import PAGE
from trainer.common.disk import write_failed
from trainer.common.errors import UserError, first_line, is_out_of_memory
from trainer.common.progress import Progress
from trainer.execution.device_lock import run_holder, take_device
from trainer.models.download import fetch
from trainer.runs import attribution, cut_down
from trainer.runs.history import ACTIVE
from trainer.runs.run import Run
from trainer.runs.store import RunStore

LOCK = "measurement.lock"
"""Held while a run is measured."""
ATTRIBUTION, CUT_DOWN = "attribution", "cut_down"


class Place(NamedTuple):
    """Where a measurement reads, and where it was started from: PAGE or COMMAND_LINE."""

    models_dir: Path
    data_dir: Path
    started_from: str


def measure(task: str, run: Run, place: Place, progress: Progress) -> None:
    """Measure a run in this process, on the first device that is free, and write that into the run's folder.

    `task`: ATTRIBUTION or CUT_DOWN. Raises UserError if it cannot be measured, or is being measured.
    """
    check(run)
    lock = file_locks.acquire(run.folder / LOCK)
    if lock is None:
        raise UserError(f"{run.title} is being measured already.", "Wait until that is done.", "data")
    try:
        _measure(task, run, place, progress)
    except UserError:
        raise
    except OSError as error:
        raise write_failed(error) from error
    except Exception as error:
        raise _explained(error) from error
    finally:
        lock.close()


def check(run: Run) -> None:
    """Raises UserError if a run cannot be measured: it is unreadable, still running, or has saved no adapter."""
    if run.config is None:
        raise UserError(run.problem, "Choose another run.", "data")
    if run.history.state in ACTIVE:
        raise UserError(f"{run.title} is still running.", "Wait until it ends, or stop it.", "data")
    if not run.has_adapter:
        raise UserError(f"{run.title} has no adapter yet.", "Let it finish, or stop it: both save one.", "data")


def _explained(error: Exception) -> UserError:
    if is_out_of_memory(error):
        return UserError("Memory ran out.", "Close other programs that use the device, then try again.", "oom")
    traceback.print_exc()
    problem = f"Measuring failed: {type(error).__name__}: {first_line(error)}."
    return UserError(problem, "Please report it with the traceback, which the log of the app has.", "bug")


def _measure(task: str, run: Run, place: Place, progress: Progress) -> None:
    assert run.config is not None
    began, step = time.monotonic(), run.history.step

    def follow(type: str, **values: Any) -> None:
        if type == "download":
            progress("Downloading the model", values["bytes"] / max(1, values["total"]))

    model = fetch(run.config.model, place.models_dir, run.history.commit, follow)
    progress(heartbeat.WAITING, 0)
    names, say = devices.devices(), lambda text: progress(text, 0)
    device = take_device(names, run_holder(run, place.started_from), say)
    os.environ |= devices.environment(device)  # before anything looks for GPUs
    progress("Importing the libraries", 0)
    from trainer.training.attribution import cut_down as cuts
    from trainer.training.attribution import path
    from trainer.training.attribution.trained_run import open_run
    from trainer.training.loop import RunPaths

    paths = RunPaths(run.folder, place.models_dir, place.data_dir)
    opened = open_run(replace(run.config, model=model), paths, progress)
    if task == ATTRIBUTION:
        attribution.record(run.folder, path.measure(opened, step, progress, began))
    else:
        cut_down.record(run.folder, cuts.measure(opened, run.adapter, step, progress))


def main(arguments: list[str]) -> int:
    file_modes.keep_private()
    redaction.install()
    task = arguments[0]
    folder, models_dir, data_dir = map(Path, arguments[1:])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the replies
    threading.Thread(target=_end_with_the_app, name="end", daemon=True).start()

    def reply(value: dict[str, Any]) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    try:
        run = RunStore(folder.parent).get(folder.name)
        place = Place(models_dir, data_dir, PAGE)
        measure(task, run, place, lambda stage, share: reply({"progress": [stage, share]}))
    except UserError as error:
        reply({"problem": str(error)})
        return 1
    reply({"done": True})
    return 0


def _end_with_the_app() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
