"""The app's side of `measurement`: one process at a time, which measures one run and ends."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.common import gpu_allocator
from trainer.common.errors import UserError
from trainer.execution.measurement import check
from trainer.runs.run import Run

STOPPING = "Stopping"
DIED = "The process that measured it ended without a result; the log of the app may say why."


@dataclass(frozen=True)
class Measuring:
    """How far the measurement of a run is."""

    task: str = ""
    """ATTRIBUTION or CUT_DOWN; empty if there was none since the app started."""
    running: bool = False
    stage: str = ""
    share: float = 0.0
    """Of the stage, from 0 to 1."""
    problem: str = ""
    """Why the last one failed; empty if it did not."""


class MeasurementProcess:
    """Starts measurements, and follows them. Ends with the app."""

    def __init__(self, models_dir: Path, data_dir: Path) -> None:
        self._folders = [str(models_dir.resolve()), str(data_dir.resolve())]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._run: Run | None = None
        self._states: dict[str, Measuring] = {}
        """By run, of those measured since the app started."""

    def start(self, task: str, run: Run) -> None:
        """Start measuring a run: ATTRIBUTION or CUT_DOWN.

        Raises UserError if that is not possible, or another one is being measured.
        """
        check(run)
        with self._lock:
            if self._process is not None and self._run is not None:
                raise UserError(
                    f"{self._run.title} is being measured.", "Wait until that is done, or stop it.", "data"
                )
            module = "trainer.execution.measurement"
            command = [sys.executable, "-m", module, task, str(run.folder), *self._folders]
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
                    env=os.environ | gpu_allocator.environment() | {"OMP_NUM_THREADS": _threads()},
                )  # fmt: skip
            except OSError as error:
                problem = f"The process cannot be started: {error.strerror or error}."
                raise UserError(problem, "Close other programs, then try again.", "bug") from error
            self._process, self._run = process, run
            self._states[run.id] = Measuring(task, True, "Starting")
        threading.Thread(target=self._follow, args=(process, run.id), name="measurement", daemon=True).start()

    def state(self, run_id: str) -> Measuring:
        return self._states.get(run_id, Measuring())

    def stop(self, run_id: str) -> None:
        """Stop measuring this run, if it is being measured."""
        with self._lock:
            if self._process is not None and self._run is not None and self._run.id == run_id:
                self._states[run_id] = replace(self._states[run_id], stage=STOPPING)
                self._process.kill()

    def close(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def _follow(self, process: subprocess.Popen[str], run_id: str) -> None:
        """Read the replies of a process until it ends."""
        task = self._states[run_id].task
        last = Measuring(task, problem=DIED)
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # a line that was torn when the process was killed
            for line in process.stdout:
                reply = json.loads(line)
                if "progress" in reply:
                    self._states[run_id] = Measuring(task, True, *reply["progress"])
                else:
                    last = Measuring(task, problem=reply.get("problem", ""))
        process.wait()
        with self._lock:
            stopped = self._states[run_id].stage == STOPPING
            self._process, self._run = None, None
            self._states[run_id] = Measuring(task) if stopped else last


def _threads() -> str:
    """As workers have: a core stays for the page."""
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 2) - 1))
