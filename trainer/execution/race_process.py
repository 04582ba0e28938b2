"""Runs a race in this process: takes the device, races, and writes race.json whenever something has changed.

Whoever follows a race reads that file, and stops it by putting a file named `stop` next to it. Every state of the
file is complete, with the answer so far.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.common import atomic, devices, file_locks
from trainer.common.device_holder import COMMAND_LINE, Holder
from trainer.common.errors import UserError
from trainer.config.schema import RunConfig
from trainer.execution.device_lock import take_device
from trainer.models.download import fetch
from trainer.planning.scenarios import Scenario

FILE, STOP = "race.json", "stop"
STARTING, RACING, FINISHED, STOPPED, FAILED = "starting", "racing", "finished", "stopped", "failed"
KILLED = 3
"""Exit code after a second interrupt."""

Show = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Request:
    """One race."""

    folder: Path
    config: RunConfig
    minutes: float
    own: tuple[Scenario, ...]
    """The user's presets."""
    models_dir: Path
    data_dir: Path


class Interrupted(BaseException):
    """Raised by a signal before anything has been trained."""


class Follower:
    """The state of a race, as JSON: its own part, and what the race says of itself."""

    def __init__(self, request: Request, show: Show) -> None:
        self._folder, self._show = request.folder, show
        self._began: float | None = None
        self._seconds = 60 * request.minutes
        self._interrupts = 0
        self.value: dict[str, Any] = {
            "id": request.folder.name,
            "model": request.config.model.name,
            "minutes": request.minutes,
            "state": STARTING,
            "message": "",
            "seconds_left": self._seconds,
            "answer": None,
        }

    def start_clock(self) -> None:
        """From now on, the race has its minutes."""
        self._began = time.monotonic()

    def left(self) -> float:
        """Seconds left."""
        return self._seconds - (time.monotonic() - self._began) if self._began is not None else self._seconds

    def write(self, **changes: Any) -> None:
        self.value |= {**changes, "seconds_left": max(0.0, self.left())}
        atomic.write(self._folder / FILE, json.dumps(self.value, ensure_ascii=False, allow_nan=False), durable=False)
        self._show(self.value)

    def log(self, type: str, **values: Any) -> None:
        """A sink of events, of which the race only shows what is being done."""
        if type == "log":
            self.write(message=str(values["text"]))

    def stop_asked(self) -> bool:
        return self._interrupts > 0 or (self._folder / STOP).exists()

    def interrupt(self, *_: Any) -> None:
        """The first signal asks for a stop, before the race at once; the second one ends the process."""
        self._interrupts += 1
        if self._began is None:
            raise Interrupted
        if self._interrupts > 1:
            os._exit(KILLED)


def run(request: Request, names: Sequence[str], show: Show) -> dict[str, Any]:
    """Race on the first free device of `names`. Returns the last state; raises UserError if no race is possible."""
    follower = Follower(request, show)
    handlers = {number: signal.signal(number, follower.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _race(request, names, follower)
    except Interrupted:
        follower.write(state=STOPPED, message="Stopped before anything was trained.")
    except UserError as error:
        follower.write(state=FAILED, message=str(error))
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return follower.value


def _race(request: Request, names: Sequence[str], follower: Follower) -> None:
    model = fetch(request.config.model, request.models_dir, "", follower.log)
    title = f"Suggest for {model.name}"
    process, runs_dir = file_locks.identity(os.getpid()), request.folder.parent
    holder = Holder(process, request.folder.name, title, str(runs_dir.parent), COMMAND_LINE, time.time())
    device = take_device(names, holder, lambda text: follower.log("log", text=text))
    os.environ |= devices.environment(device)  # before anything looks for GPUs
    follower.write(message="Importing the libraries")
    _run_race(request, follower)


def _run_race(request: Request, follower: Follower) -> None:
    import trainer.models.bitsandbytes_import
    from trainer.experiments.race.answer import to_json
    from trainer.experiments.race.arms import obstacle
    from trainer.experiments.race.opening import open_race
    from trainer.experiments.race.race import LEFT_OUT, WAITING, Entry, Race
    from trainer.training.loop import RunPaths

    assert trainer.models.bitsandbytes_import
    paths = RunPaths(request.folder.parent, request.models_dir, request.data_dir)
    opened = open_race(request.config, paths, request.own, follower.log, follower.stop_asked)
    notes = [obstacle(arm) for arm in opened.arms]
    entries = [Entry(arm, LEFT_OUT if note else WAITING, note) for arm, note in zip(opened.arms, notes, strict=True)]

    def show() -> None:
        follower.write(**to_json(race, request.config, opened.run_steps))

    race = Race(entries, opened.shape, opened.bench.train, follower.left, show)
    follower.start_clock()
    follower.write(state=RACING, message="")
    race.run()
    ended = STOPPED if follower.stop_asked() else FINISHED
    nothing = "" if follower.value["answer"] else "It ended before two selections could be compared."
    follower.write(state=ended, message=nothing)
