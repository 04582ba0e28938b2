"""Helper processes of the app that have torch and transformers imported, and answer `analysis.REQUESTS`.

A request is one line of JSON to the process; it replies with lines of progress, then the result. SIGINT cancels the
current request. The process ends with the app, and is restarted if it dies. The app has one for models and one for
data, so that a long data check does not delay module maps.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.common import redaction
from trainer.common.errors import UserError
from trainer.common.progress import Canceled, Progress, ProgressMonitor
from trainer.execution.analysis import REQUESTS, Folders

PROGRESS = '{"progress":'


class AnalysisProcess:
    """The app's side: one process, one request at a time."""

    def __init__(self, models_dir: Path, data_dir: Path, task: str) -> None:
        """`task`: models or data; decides what the process imports in advance."""
        module = "trainer.execution.analysis_process"
        self._command = [sys.executable, "-m", module, str(models_dir), str(data_dir), task]
        self._process: subprocess.Popen[str] | None = None
        self._closed = False
        self._turn = threading.Lock()
        """Held by the current request."""
        self._starting = threading.Lock()

    def start(self) -> None:
        """Start the process, so that its imports run before it is needed."""
        if self._turn.acquire(blocking=False):  # else it is running and busy
            try:
                self._running()
            finally:
                self._turn.release()

    def call(self, request: str, monitor: ProgressMonitor | None = None, **arguments: Any) -> Any:
        """Send a request. Raises UserError if it fails or the process dies, Canceled if `monitor` cancels it."""
        monitor = monitor or ProgressMonitor()
        with self._waited_for(monitor):
            process = self._running()
            with monitor.interrupting(lambda: process.send_signal(signal.SIGINT)):
                line = _exchange(process, {"call": request, "arguments": arguments}, monitor.progress)
        if not line:
            raise UserError(
                "The analysis process died before it replied.", "Try again; it restarts automatically.", "bug"
            )
        answer = json.loads(line)
        if "problem" in answer:
            raise UserError(answer["problem"], answer["fix"], answer["cause"])
        return answer["result"]

    def close(self) -> None:
        """End the process for good."""
        with self._starting:
            self._closed = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    @contextlib.contextmanager
    def _waited_for(self, monitor: ProgressMonitor) -> Iterator[None]:
        """Wait until earlier calls are done."""
        while not self._turn.acquire(timeout=0.2):
            monitor.check()
            monitor.progress("waiting", 0.0)
        try:
            yield
        finally:
            self._turn.release()

    def _running(self) -> subprocess.Popen[str]:
        """The process, started if needed. Raises UserError after `close`."""
        with self._starting:
            if self._closed:
                raise UserError("The app is shutting down.", "Start it again.", "bug")
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
                )
            return self._process


def _exchange(process: subprocess.Popen[str], request: dict[str, Any], progress: Progress) -> str:
    """The process's reply, a line of JSON; empty if it died."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        while line.startswith(PROGRESS):
            progress(*json.loads(line)["progress"])
            line = process.stdout.readline()
    except OSError:
        return ""
    return line


class _Interrupted(BaseException):
    """Raised by SIGINT, at any point of a request."""


_idle = threading.Event()
"""Set while the process is idle: a late SIGINT, or one from a terminal, then has no effect."""


def _on_interrupt(*_: Any) -> None:
    if not _idle.is_set():
        raise _Interrupted


def serve(models_dir: Path, data_dir: Path, task: str) -> None:
    """The process's side: answer requests until the app closes the pipe."""
    signal.signal(signal.SIGINT, _on_interrupt)
    redaction.install()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the replies

    def reply(value: dict[str, Any]) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    folders = Folders(models_dir, data_dir, lambda stage, share: reply({"progress": [stage, share]}))
    _warm_up(folders, task)
    _idle.set()
    for line in sys.stdin:
        request = json.loads(line)
        reply(answer(folders, request["call"], request["arguments"]))


def answer(folders: Folders, request: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request: its result, or what went wrong."""
    try:
        _idle.clear()
        return {"result": REQUESTS[request](folders, **arguments)}
    except _Interrupted:
        return _failure(Canceled())
    except UserError as error:
        return _failure(error)
    except Exception as error:
        import traceback

        traceback.print_exc()
        problem = f"This model or data cannot be read: {type(error).__name__}: {str(error)[:200]}."
        return _failure(UserError(problem, "Please report it with the app's log.", "bug"))
    finally:
        _idle.set()


def _failure(error: UserError) -> dict[str, Any]:
    return {"problem": error.problem, "fix": error.fix, "cause": error.cause}


def _warm_up(folders: Folders, task: str) -> None:
    if task == "data":
        import trainer.data.inspection

        assert trainer.data.inspection
        return
    import gc

    import torch

    torch.set_num_threads(1)
    REQUESTS["modules"](folders, model={"name": "demo"})  # pays the cost of a process's first module map now
    gc.collect()
    gc.freeze()  # torch's own objects stay, so the garbage collector need not scan them again


if __name__ == "__main__":
    with contextlib.suppress(_Interrupted):  # before it was ready; the app starts another one
        serve(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
