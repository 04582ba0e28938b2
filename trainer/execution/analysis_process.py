"""The app's side of its analysis processes, which have imported torch and answer `analysis.REQUESTS`.

The app has one for models and one for data, so that a long data check does not delay module maps. A process that
shows no sign of life for too long, or takes too much memory, is killed and restarted.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from trainer.common.errors import UserError
from trainer.common.progress import ProgressMonitor
from trainer.config.schema import ModelConfig
from trainer.execution.analysis import Subject, subject_of
from trainer.execution.waiting_line import WaitingLine
from trainer.models.locations import files_stamp

PATIENCE = {"modules": 60.0, "vocabulary": 300.0, "file": 900.0, "demo": 900.0, "hub": 3600.0}
"""Seconds without a sign of life after which a request is given up, by request, and for data by their source.

A tokenizer may have to be downloaded. Data report progress, but not while a data set of the hub is downloaded.
"""
START_PATIENCE = 300.0
"""Seconds that the process's imports may take."""
CANCEL_PATIENCE = 5.0
"""Seconds in which a canceled request must end by itself."""
REMEMBERED = 600.0
"""Seconds for which a request that cost a process its life fails at once."""
KILLED_BY_OTHERS = (-signal.SIGKILL, -signal.SIGTERM)
"""Exit codes for which no request is to blame."""
PLACES = 20
"""Callers that may wait for one process, each of which holds one of the app's threads (`ui.THREADS`)."""


class Lost(Exception):
    """A process will not answer: it died, or shows no sign of life. Its text completes “Reading the modules …”."""

    def __init__(self, text: str, by_request: bool = True) -> None:
        """`by_request`: whether the request is to blame, so that it would happen again."""
        super().__init__(text)
        self.by_request = by_request


class AnalysisProcess:
    """One process, restarted when needed, and those who wait for its answers."""

    def __init__(self, models_dir: Path, data_dir: Path, task: str) -> None:
        """`task`: models or data; decides what the process imports in advance."""
        module = "trainer.execution.analysis_server"
        self._command = [sys.executable, "-m", module, str(models_dir), str(data_dir), task]
        self._models_dir = models_dir
        self._line = WaitingLine(PLACES)
        self._process: _Process | None = None
        self._closed = False
        self._starting = threading.Lock()
        self._failures: dict[str, tuple[float, UserError]] = {}
        """When requests failed that cost a process its life, and how."""

    def start(self) -> None:
        """Start the process, so that its imports run before it is needed."""
        with self._line.turn_if_free() as free:
            if free:  # else it is running and busy
                self._running()

    def call(self, request: str, monitor: ProgressMonitor | None = None, **arguments: Any) -> Any:
        """Send a request. Raises UserError if it fails or too many wait, Canceled if `monitor` cancels it."""
        seen = monitor or ProgressMonitor()
        key = json.dumps([request, arguments], sort_keys=True)
        with self._line.place():
            return self._line.shared(key, seen, lambda: self._answer(request, arguments, seen))

    def close(self) -> None:
        """End the process for good."""
        with self._starting:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def _answer(self, request: str, arguments: dict[str, Any], monitor: ProgressMonitor) -> Any:
        key = self._failure_key(request, arguments)
        with self._line.turn(monitor):
            self._raise_if_it_failed(key)
            process = self._running()
            try:
                with monitor.interrupting(process.interrupt):
                    reply = process.ask(request, arguments, monitor)
            except Lost as lost:
                process.kill()
                monitor.check()
                if self._closed:
                    raise _closing() from lost
                raise self._remembered(key, _lost(lost, request, arguments), lost.by_request) from lost
            if "spent" in reply:  # the next request would lack the memory that it still holds
                process.kill()
                self._running()
        if "problem" in reply:
            error = UserError(reply["problem"], reply["fix"], reply["cause"])
            raise self._remembered(key, error, "spent" in reply)
        return reply["result"]

    def _running(self) -> _Process:
        """The process, started if needed. Raises UserError after `close`."""
        with self._starting:
            if self._closed:
                raise _closing()
            if self._process is None or not self._process.alive():
                self._process = _Process(self._command)
            return self._process

    def _failure_key(self, request: str, arguments: dict[str, Any]) -> str:
        """The same as long as the request reads the same: a changed file or setting is tried again."""
        model = subject_of(arguments)["model"]
        stamp = files_stamp(ModelConfig(model["name"], model.get("revision", "main")), self._models_dir)
        return json.dumps([request, subject_of(arguments), stamp], sort_keys=True)

    def _remembered(self, key: str, error: UserError, cost_a_process: bool) -> UserError:
        now = time.monotonic()
        self._failures = {key: kept for key, kept in self._failures.items() if now - kept[0] < REMEMBERED}
        if cost_a_process:
            self._failures[key] = now, error
        return error

    def _raise_if_it_failed(self, key: str) -> None:
        at, error = self._failures.get(key, (0.0, None))
        if error is not None and time.monotonic() - at < REMEMBERED:
            raise UserError(error.problem, error.fix, error.cause)


class _Process:
    """A process, and the thread that starts it and reads its replies.

    The process ends with that thread (`analysis_server`), so the thread lives as long as the process: one of
    Gradio's would end when it has been idle for a while.
    """

    def __init__(self, command: list[str]) -> None:
        """Raises UserError if it cannot be started."""
        self._replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._ready = False
        started: queue.SimpleQueue[subprocess.Popen[str] | OSError] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(command, started), name="analysis", daemon=True).start()
        process = started.get()
        if isinstance(process, OSError):
            problem = f"The analysis process cannot be started: {process.strerror or process}."
            raise UserError(problem, "Close other programs, then try again.", "bug") from process
        self._process = process

    def alive(self) -> bool:
        return self._process.poll() is None

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel, on a dead network disk
            self._process.wait(CANCEL_PATIENCE)

    def ask(self, request: str, arguments: dict[str, Any], monitor: ProgressMonitor) -> dict[str, Any]:
        """The reply to a request. Raises Lost."""
        while not self._ready:
            try:
                self._ready = "ready" in self._next(monitor, START_PATIENCE)
            except Lost as lost:
                raise Lost(f"was not possible: the analysis process did not start. It {lost}", False) from lost
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # then it has died, which the next reply says
            self._process.stdin.write(json.dumps({"call": request, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        patience = PATIENCE[request if request in PATIENCE else arguments["config"]["data"]["source"]]
        while "progress" in (reply := self._next(monitor, patience)):
            monitor.progress(*reply["progress"])
        return reply

    def _next(self, monitor: ProgressMonitor, patience: float) -> dict[str, Any]:
        """The next reply, or why there will be none."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                reply = self._replies.get(timeout=0.5)
            except queue.Empty:
                if monitor.canceled:
                    deadline = min(deadline, time.monotonic() + CANCEL_PATIENCE)
                continue
            if reply is None:
                code = self._process.wait()
                raise Lost(f"ended the analysis process ({_ending(code)})", code not in KILLED_BY_OTHERS)
            return reply
        raise Lost(f"took too long: no sign of life for {patience:.0f} s, so it was stopped")

    def _read(self, command: list[str], started: queue.SimpleQueue[subprocess.Popen[str] | OSError]) -> None:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
            )
        except OSError as error:
            started.put(error)
            return
        started.put(process)
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # a line that was torn when the process was killed
            for line in process.stdout:
                self._replies.put(json.loads(line))
        self._replies.put(None)
        process.wait()


def _ending(code: int) -> str:
    """How a process ended: a signal's name, or its exit code."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _lost(lost: Lost, request: str, arguments: dict[str, Any]) -> UserError:
    subject = Subject(request, arguments)
    fix = subject.fix if lost.by_request else "Try again; the analysis process restarts by itself."
    return UserError(f"{subject} {lost}.", fix)


def _closing() -> UserError:
    return UserError("The app is shutting down.", "Start it again.", "bug")
