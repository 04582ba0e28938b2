"""The app's background thread: starts queued runs when a device is free, and adopts running ones.

It has no state of its own: run folders and their locks say what is running, so a restarted app continues where the
last one stopped. Workers outlive the app. Of several apps with the same runs folder, one schedules; another one takes
over when it ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import BinaryIO

from trainer.common import devices, file_locks, gpu_allocator, heartbeat
from trainer.common.errors import UserError
from trainer.execution.worker import TAKEN
from trainer.runs import lifecycle, queue_state
from trainer.runs.failures import memory_advice
from trainer.runs.history import ACTIVE
from trainer.runs.run import Run
from trainer.runs.store import RunStore

POLL_SECONDS = 1.0
STOP_POLL_SECONDS = 0.1


class Scheduler:
    """Queue and start. One thread; `kick` wakes it at once."""

    def __init__(self, store: RunStore, models_dir: Path, data_dir: Path) -> None:
        self._store = store
        self._environment = {
            **os.environ,
            "LAB_MODELS_DIR": str(models_dir.resolve()),
            "LAB_DATA_DIR": str(data_dir.resolve()),
            "PYTHONUNBUFFERED": "1",
            **gpu_allocator.environment(),
            # leave a core to the page: threads that compete for a core slow training down by more than one core does
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 2) - 1)),
        }
        self._lock: BinaryIO | None = None
        """Held by the only scheduler of a runs folder; the file name is the one that earlier versions use."""
        self._children: dict[str, tuple[subprocess.Popen[bytes], str]] = {}
        """Run id -> its worker and device."""
        self._spare: subprocess.Popen[bytes] | None = None
        self._spare_device = ""
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread and the spare worker; running workers continue."""
        self._closing = True
        self.kick()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self.drop_spare()
        if self._lock is not None:
            self._lock.close()

    def stop_runs(self) -> None:
        """Stop all running runs with a checkpoint, and wait until they have ended; call it after `close`.

        For a container, which ends with the app, and its workers with it. It waits without a limit: the container's
        stop timeout is the limit.
        """
        asked: set[str] = set()
        while active := [run for run in self._store.open_runs() if run.history.state in ACTIVE]:
            for run in active:
                if run.id not in asked and not lifecycle.stop_requests(run):
                    lifecycle.stop_run(run)
                asked.add(run.id)
            self._reap()
            time.sleep(STOP_POLL_SECONDS)

    def drop_spare(self) -> None:
        """End the warm worker that waits for a run, if any."""
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.kill()
            spare.wait()

    def kick(self) -> None:
        self._wake.set()

    def _loop(self) -> None:
        while not self._closing:
            try:
                self._tick()
            except Exception:  # a problem with one run or a full disk must not stop the others
                traceback.print_exc()
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()

    def _tick(self) -> None:
        self._lock = self._lock or file_locks.acquire(self._store.folder / ".supervisor")
        if self._lock is None:
            return
        self._reap()
        self._launch()
        self._prepare_spare()

    def _reap(self) -> None:
        """Record the end of workers that could not do it themselves."""
        for run_id, (child, _) in list(self._children.items()):
            try:
                run = self._store.get(run_id)
            except UserError:
                run = None  # deleted in the meantime
            code = child.poll()
            if code is None:
                if run and lifecycle.stop_requests(run) > 1 and file_locks.holder(run.folder / "lock") is None:
                    child.kill()  # stopped twice before it had started
                continue
            try:
                if run and code != TAKEN:
                    self._record_death(run, code)
            except (OSError, UserError) as error:  # tried again with the next tick
                print(f"The end of {run_id} cannot be recorded: {error}", file=sys.stderr)
                continue
            del self._children[run_id]

    def _record_death(self, run: Run, code: int) -> None:
        lifecycle.record(run, ACTIVE, **(lifecycle.requested_death(run) or _explain(run, code)))

    def _launch(self) -> None:
        queued = queue_state.in_order(self._store)
        if not queued:
            return
        in_use = {device for child, device in self._children.values() if child.poll() is None}
        free = [name for name in devices.devices() if name not in in_use and not devices.is_taken(name)]
        for run in queued if free else ():
            try:
                self._spawn(run, free[0])
            except (OSError, UserError) as error:  # its folder is damaged or not ours: the others start
                print(f"{run.id} cannot be started: {error}", file=sys.stderr)
                continue
            free.pop(0)
            if not free:
                break

    def _spawn(self, run: Run, device: str) -> None:
        worker = self._spare
        if worker is None or worker.poll() is not None or self._spare_device != device:
            self.drop_spare()
            worker = self._new_worker(device)
        self._spare, self._spare_device = worker, device
        if not lifecycle.record(run, ["queued"], "starting", worker=file_locks.identity(worker.pid)):
            return  # stopped or taken in the meantime
        self._spare = None
        self._children[run.id] = (worker, device)
        heartbeat.announce(run.folder, worker.pid)
        assert worker.stdin is not None
        seen = "cpu" if device == "cpu" else "cuda:0"  # the only one visible to this worker
        worker.stdin.write(f"{seen}\t{run.folder}\n".encode())
        worker.stdin.close()

    def _prepare_spare(self) -> None:
        """Keep one worker with its imports done, so that Train starts at once; only while nothing is running."""
        if self._spare is not None and self._spare.poll() is not None:
            self._spare = None
        if self._spare is None and not self._children and not self._closing:
            self._spare_device = devices.devices()[0]
            self._spare = self._new_worker(self._spare_device)

    def _new_worker(self, device: str) -> subprocess.Popen[bytes]:
        """A worker that waits for its run folder on standard input, and ends if the app ends first.

        Only `device` is visible to it from the start: bitsandbytes looks for GPUs when it is imported.
        """
        return subprocess.Popen(
            [sys.executable, "-m", "trainer.execution.worker", "--wait"],
            stdin=subprocess.PIPE,
            start_new_session=True,
            env=self._environment | devices.environment(device),
        )


def _explain(run: Run, code: int) -> dict[str, str]:
    """State, cause and message of a run whose worker ended with `code` without saying why."""
    if code == -signal.SIGKILL:
        advice = memory_advice(run.config, run.plan())
        message = f"The system killed the worker, most likely because memory ran out. {advice}"
        return {"state": "failed", "cause": "oom", "message": message}
    if code == -signal.SIGVTALRM:  # `common/work_limits.py`
        problem = "One operation of the chat template ran far beyond its time limit, and could not be interrupted."
        return {"state": "failed", "cause": "data", "message": f"{problem} Choose another template."}
    message = f"The worker ended with code {code}. See the end of worker.log."
    return {"state": "failed", "cause": "bug", "message": message}
