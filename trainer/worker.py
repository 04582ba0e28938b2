"""python -m trainer.worker RUN_DIR: one process, one run.

Exit codes: 0 finished, 3 stopped, 1 failed (events.jsonl says why), 4 another worker has the run.
With --wait it imports everything first and reads its device and folder from standard input: a warm spare.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from trainer import devices, locks, parsing
from trainer.errors import UserError
from trainer.events import Event, EventWriter

FINISHED, FAILED, STOPPED, TAKEN = 0, 1, 3, 4
LOCK_PATIENCE = 5.0
"""Seconds to try for the run's lock, which the app holds for a moment whenever it asks who has it."""


class Stopped(BaseException):
    """Raised by SIGTERM before the first step, where nothing is worth saving yet."""


class StopSwitch:
    """SIGTERM: at once while nothing trains, after the current step while something does."""

    def __init__(self, writer: EventWriter) -> None:
        self.asked = False
        self.training = False
        self._writer = writer
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True
        if first:
            self._writer.write("state", state="stopping")
        if not self.training:
            raise Stopped


def main(arguments: list[str]) -> int:
    """Run the folder named on the command line, or, with --wait, the one named on standard input."""
    if arguments == ["--wait"]:
        with contextlib.suppress(KeyboardInterrupt):
            return _wait()
        return STOPPED
    return work(Path(arguments[0]).resolve(), devices.devices()[0])


def _wait() -> int:
    os.nice(10)  # the page stays smooth; nothing else on the machine wants the cores
    import trainer.loop

    assert trainer.loop
    line = sys.stdin.readline()
    if not line.strip():
        return FINISHED  # the app went away and never needed this spare
    device, _, folder = line.rstrip("\n").partition("\t")
    return work(Path(folder), device)


def work(folder: Path, device: str, echo: Callable[[Event], None] | None = None) -> int:
    """Take the run's lock and its device's, train, write down how it ended.

    `echo` is told every event, too; without it, what libraries print goes to the run's log.
    """
    lock = locks.acquire(folder / "lock", LOCK_PATIENCE)
    if lock is None:
        return TAKEN
    if echo is None:
        _log_to(folder / "worker.log")
    writer = EventWriter(folder / "events.jsonl", echo)
    switch = StopSwitch(writer)
    try:
        return _train(folder, device, writer, switch)
    except Stopped:
        writer.write("state", state="stopped", message="Stopped before the first step.")
        return STOPPED
    except UserError as error:
        traceback.print_exc()
        writer.write("state", state="failed", cause=error.cause, message=str(error))
    except MemoryError:
        _record_oom(writer, "The machine ran out of memory.")
    except OSError as error:
        traceback.print_exc()
        writer.write(
            "state", state="failed", cause="disk", message=f"The disk refused: {error.strerror}. Free some space."
        )
    except Exception as error:
        traceback.print_exc()
        if "out of memory" in str(error).lower():
            _record_oom(writer, "The device ran out of memory.")
        else:
            message = f"{type(error).__name__}: {str(error)[:300]}. worker.log has the whole story."
            writer.write("state", state="failed", cause="bug", message=message)
    return FAILED


def _train(folder: Path, device: str, writer: EventWriter, switch: StopSwitch) -> int:
    if device.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = device.partition(":")[2]  # CUDA is not touched before this
    writer.write("state", state="starting")
    config = parsing.load(folder / "config.json")
    held = locks.acquire(devices.lock_path(device))
    if held is None:
        writer.write("log", text=f"Waiting for {device}, which another run uses")
        held = locks.acquire(devices.lock_path(device), patience=float("inf"))
    from trainer import loop

    places = loop.Places(folder, _folder("LAB_MODELS_DIR", "models"), _folder("LAB_DATA_DIR", "runs/data"))

    def sink(type: str, **values: Any) -> None:
        if type == "state":
            switch.training = True
            if switch.asked:
                raise Stopped
        writer.write(type, **values)

    finished = loop.train(config, places, sink, lambda: switch.asked)
    held and held.close()
    state, code = ("finished", FINISHED) if finished else ("stopped", STOPPED)
    writer.write("state", state=state, message="" if finished else "Stopped; the adapter so far is saved.")
    return code


def _record_oom(writer: EventWriter, problem: str) -> None:
    fix = "Lower per_device_train_batch_size or max_length, or switch activation_checkpointing on."
    writer.write("state", state="failed", cause="oom", message=f"{problem} {fix}")


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or default).resolve()


def _log_to(path: Path) -> None:
    """Standard output and error of this process, C libraries' included, to the run's log."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
