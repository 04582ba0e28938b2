"""python -m trainer.execution.worker RUN_DIR: one process, one run.

Exit codes: 0 finished, 3 stopped, 1 failed (events.jsonl says why), 4 taken by another worker.
With --wait, it imports everything and then reads its device and folder from standard input: a warm spare.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from trainer.common import devices, file_locks, file_modes, heartbeat, redaction
from trainer.common.device_holder import COMMAND_LINE, PAGE
from trainer.common.errors import UserError
from trainer.config import validation
from trainer.execution.device_lock import run_holder, take_device
from trainer.models.download import fetch
from trainer.runs import failures, lifecycle
from trainer.runs.event_log import EventWriter
from trainer.runs.event_rows import Event
from trainer.runs.history import History
from trainer.runs.run import Run
from trainer.training import checkpoints

if TYPE_CHECKING:
    from trainer.training.loop import Outcome

FINISHED, FAILED, STOPPED, TAKEN = 0, 1, 3, 4
LOCK_PATIENCE = 5.0
"""Seconds to try for the run's lock, which the app holds for a moment while it writes a state."""
RESERVE, RESERVE_BYTES = ".reserve", 2**18
"""Space kept for the last event, so that a run on a full disk can still say why it ended."""


class Stopped(BaseException):
    """Raised by SIGTERM before the first step, when there is nothing to save yet."""


class StopSwitch:
    """Stops on SIGTERM: before the first step at once, later after the current step; a second one kills."""

    def __init__(self) -> None:
        self.asked = False
        self.training = False
        """Whether a step has been taken, which is saved before the run ends."""
        self._signals = 0
        self._recorded = False
        self._writer: EventWriter | None = None
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def attach(self, writer: EventWriter) -> None:
        """Record a stop as an event from now on, or now if it has already been requested."""
        self._writer = writer
        if self.asked:
            self.ask()

    def ask(self) -> None:
        """Stop. Raises Stopped if training has not started."""
        self.asked = True
        if self._writer is None:
            return
        if not self._recorded:
            self._recorded = True
            with contextlib.suppress(OSError):
                self._writer.write("state", state="stopping")
        if not self.training:
            raise Stopped

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals == 1:
            self.ask()
        elif self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.write("state", state="stopped", message="Killed by a second stop.")
            os._exit(STOPPED)


def main(arguments: list[str]) -> int:
    """Run the folder named on the command line, or, with --wait, the one named on standard input."""
    file_modes.keep_private()
    if arguments == ["--wait"]:
        with contextlib.suppress(KeyboardInterrupt):
            return _wait()
        return STOPPED
    return work(Path(arguments[0]).resolve(), devices.devices())


def _wait() -> int:
    if devices.devices() == ("cpu",):
        os.nice(10)  # keeps the page responsive; on a GPU, the threads that launch kernels must not wait for a core
    _import_training()
    line = sys.stdin.readline()
    if not line.strip():
        return FINISHED  # the app ended and never needed this spare
    device, _, folder = line.rstrip("\n").partition("\t")
    return work(Path(folder), [device])


def work(folder: Path, names: Sequence[str], echo: Callable[[Event], None] | None = None) -> int:
    """Take the locks of the run and of the first free device, train, and record how it ended.

    `echo` receives every event as well; without it, standard output and error go to the run's log.
    """
    switch = StopSwitch()
    lock = file_locks.acquire(folder / "lock", LOCK_PATIENCE)
    if lock is None:
        return TAKEN
    if echo is None:
        _log_to(folder / "worker.log")
    heartbeat.start(folder)
    run = Run(folder, None, "", History(folder))
    writer = None
    try:
        writer = EventWriter(folder / "events.jsonl", echo, figures=True)
        with contextlib.suppress(OSError):
            (folder / RESERVE).write_bytes(b"\n" * RESERVE_BYTES)
        _take_over(run, writer, switch)
        outcome = _train(run, names, writer, switch, PAGE if echo is None else COMMAND_LINE)
    except Stopped:
        step = run.history.refresh().step
        message = f"Stopped before step {step + 1:,}." if step else "Stopped before the first step."
        return _end(run, writer, STOPPED, "stopped", message=message)
    except Exception as error:
        if echo is None or not isinstance(error, UserError):  # the traceback goes to the log
            with contextlib.suppress(OSError):
                traceback.print_exc()
        cause, message = failures.explain(error, run.config, run.plan())
        if cause == "disk":
            checkpoints.remove_unfinished(folder / "checkpoints")
        return _end(run, writer, FAILED, "failed", cause=cause, message=message)
    unchanged = {"message": outcome.unchanged, "unchanged": True} if outcome.unchanged else {}
    if outcome.finished:
        return _end(run, writer, FINISHED, "finished", **unchanged)
    return _end(run, writer, STOPPED, "stopped", **{"message": "Stopped. The adapter so far is saved."} | unchanged)


def _take_over(run: Run, writer: EventWriter, switch: StopSwitch) -> None:
    """Take over from the launcher. Raises Stopped if a stop has been requested since."""
    launched = run.history.refresh().recorded == "starting"
    if not launched:
        lifecycle.forget_requests(run.folder)
        writer.write("state", state="starting")
    switch.attach(writer)
    if (run.folder / "stop").exists():
        switch.ask()
    run.config = validation.load(run.folder / run.history.config)


def _train(run: Run, names: Sequence[str], writer: EventWriter, switch: StopSwitch, started_from: str) -> Outcome:
    """Train the run on one of these devices."""
    assert run.config is not None
    models_dir = _folder("LAB_MODELS_DIR", "models")

    def write(type: str, **values: Any) -> None:
        heartbeat.beat()
        writer.write(type, **values)

    model = fetch(run.config.model, models_dir, run.history.commit, write)
    device = take_device(names, run_holder(run, started_from), lambda text: writer.write("log", text=text))
    os.environ |= devices.environment(device)  # before anything looks for GPUs
    heartbeat.task("Importing the libraries")
    _import_training()
    from trainer.training import loop

    def sink(type: str, **values: Any) -> None:
        if type == "metrics":  # from the first step on, there is something to save
            switch.training = True
        write(type, **values)

    paths = loop.RunPaths(run.folder, models_dir, _folder("LAB_DATA_DIR", "runs/data"))
    return loop.train(replace(run.config, model=model), paths, sink, lambda: switch.asked)


def _import_training() -> None:
    """Import it all. Modules stay, so the garbage collector need not scan them, while they load or in a step."""
    gc.disable()
    import trainer.models.bitsandbytes_import
    from trainer.training import loop

    assert trainer.models.bitsandbytes_import
    assert loop
    gc.freeze()
    gc.enable()


def _end(run: Run, writer: EventWriter | None, code: int, state: str, **values: Any) -> int:
    """Write the last event; on a full disk, into the reserved space."""
    reserve = run.folder / RESERVE
    for attempt in range(2):
        with contextlib.suppress(OSError, UserError):
            writer = writer or EventWriter(run.folder / "events.jsonl")
            writer.write("state", state=state, **values)
            break
        if attempt == 0:
            reserve.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        reserve.unlink(missing_ok=True)
    heartbeat.end()
    return code


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or default).resolve()


def _log_to(path: Path) -> None:
    """Redirect standard output and error, including those of C libraries, to the run's log."""
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
    redaction.install()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
