"""The app's background thread: starts queued runs when their device is free, stops runs, adopts running ones.

It holds no state of its own: what runs is what the run folders and their locks say, so that an app
started anew goes on where the last one was. Workers outlive the app.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from trainer import devices, events, locks
from trainer.errors import UserError
from trainer.history import ACTIVE, ENDED
from trainer.runs import Run, RunStore

POLL = 0.5


class Supervisor:
    """Queue, start, stop. One thread; `kick` wakes it at once."""

    def __init__(self, store: RunStore, models_dir: Path, data_dir: Path) -> None:
        self._store = store
        self._environment = {
            **os.environ,
            "LAB_MODELS_DIR": str(models_dir.resolve()),
            "LAB_DATA_DIR": str(data_dir.resolve()),
            "PYTHONUNBUFFERED": "1",
        }
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._spare: subprocess.Popen[bytes] | None = None
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread and the spare worker; running workers go on."""
        self._closing = True
        self.kick()
        self._thread.join(timeout=5)
        self.drop_spare()

    def drop_spare(self) -> None:
        """End the warm worker that waits for a run, if there is one."""
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.kill()
            spare.wait()

    def kick(self) -> None:
        self._wake.set()

    def stop(self, run_id: str) -> str:
        """See `stop_run`."""
        return stop_run(self._store.get(run_id))

    def _loop(self) -> None:
        while not self._closing:
            try:
                self._reap()
                self._launch()
                self._prepare_spare()
            except OSError as error:  # a full or vanishing disk must not end the supervisor
                print(f"supervisor: {error}", file=sys.stderr, flush=True)
            self._wake.wait(POLL)
            self._wake.clear()

    def _reap(self) -> None:
        """Write down the end of workers that could not do it themselves."""
        for run_id, child in list(self._children.items()):
            code = child.poll()
            if code is None:
                continue
            del self._children[run_id]
            try:
                run = self._store.get(run_id)
            except UserError:
                continue  # deleted meanwhile
            if run.history.recorded in ACTIVE and locks.holder(run.folder / "lock") is None:
                self._record_death(run, code)

    def _record_death(self, run: Run, code: int) -> None:
        killed = (run.folder / "stop").exists()
        if killed:
            state, cause, message = "stopped", "", "Killed by a second stop."
        elif code == -signal.SIGKILL:
            state, cause = "failed", "oom"
            message = (
                "The system killed the worker, most likely for want of memory. Lower the batch size or max_length."
            )
        else:
            state, cause = "failed", "bug"
            message = f"The worker ended with code {code}. Its last words are in worker.log."
        events.append(run.folder / "events.jsonl", "state", state=state, cause=cause, message=message)

    def _launch(self) -> None:
        runs = [self._store.get(run_id) for run_id in reversed(self._store.ids())]
        queued = [run for run in runs if run.history.recorded == "queued" and not run.problem]
        if not queued:
            return
        # a worker that is starting has not taken its device's lock yet, so it counts as one
        starting = sum(run.history.state == "starting" for run in runs)
        free = [name for name in devices.devices() if locks.holder(devices.lock_path(name)) is None]
        for run, device in zip(queued, free[starting:], strict=False):
            self._spawn(run, device)

    def _spawn(self, run: Run, device: str) -> None:
        events.append(run.folder / "events.jsonl", "state", state="starting")
        spare, self._spare = self._spare, None
        if spare is None or spare.poll() is not None:
            spare = self._new_worker()
        assert spare.stdin is not None
        spare.stdin.write(f"{device}\t{run.folder}\n".encode())
        spare.stdin.close()
        self._children[run.id] = spare

    def _prepare_spare(self) -> None:
        """Keep one worker with its imports done, so that Train starts at once. Only while nothing else works."""
        if self._spare is None and not self._children and not self._closing:
            self._spare = self._new_worker()

    def _new_worker(self) -> subprocess.Popen[bytes]:
        """A worker that waits for its device and folder on standard input; it ends if the app does before that."""
        return subprocess.Popen(
            [sys.executable, "-m", "trainer.worker", "--wait"],
            stdin=subprocess.PIPE,
            start_new_session=True,
            env=self._environment,
        )


def stop_run(run: Run) -> str:
    """Stop a run: a queued one at once, a running one after a checkpoint; a second call kills it.

    Returns what was done, as a sentence. Raises UserError while its worker is only just starting.
    """
    state = run.history.state
    if state == "queued":
        events.append(run.folder / "events.jsonl", "state", state="stopped", message="Taken out of the queue.")
        return "Taken out of the queue."
    if state not in ACTIVE:
        return f"This run is {state} already."
    process = locks.holder(run.folder / "lock")
    if process is None or process < 0:
        raise UserError("The worker is just starting.", "Try again in a moment.", "bug")
    harder = (run.folder / "stop").exists()
    (run.folder / "stop").touch()
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL if harder else signal.SIGTERM)
    return "Killed." if harder else "Stopping after the current step. Stop again to kill it."


def resume_run(run: Run, state: str = "queued") -> None:
    """Queue an ended run again, or mark it as `starting`: it goes on from the newest complete checkpoint.

    Raises UserError for a run that is not over, or that has nothing left to do.
    """
    now = run.history.state
    if run.problem or now not in ENDED or now == "finished":
        what = run.problem or f"{run.title} is {now}."
        raise UserError(what, "Only a run that was stopped, failed or was interrupted can go on.", "data")
    (run.folder / "stop").unlink(missing_ok=True)
    events.append(run.folder / "events.jsonl", "state", state=state)
