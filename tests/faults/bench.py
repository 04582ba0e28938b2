"""What the fault tests share: apps and workers in real processes, a page to look at, and what must always hold."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tests.support.lab import PATIENCE, open_lab, small_config, wait_for
from trainer.common import file_locks
from trainer.config.schema import RunConfig
from trainer.execution import worker
from trainer.planning.plan import Plan
from trainer.runs import event_log
from trainer.runs.history import ACTIVE
from trainer.runs.run import Run
from trainer.service import planning

ROOT = Path(__file__).parents[2]
ENDLESS = 100_000
"""Steps of a run that only ends by a fault."""
PAGE_SECONDS = 10.0
"""The page's timer ticks once a second. The rest is for a machine that is busy."""


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["trainer.training.loop", "tests.faults.bench"])
"""A process that has imported what a worker needs, and forks workers that need not: the app's spares do the same."""

Preparation = Callable[[], object]


def no_preparation() -> None:
    pass


def limit_files(size: int) -> None:
    """RLIMIT_FSIZE: the kernel refuses to let a file grow larger."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def run_out_of_memory() -> None:
    """The one mock: torch's own error, raised where a GPU raises it."""
    import torch

    from trainer.training import loop

    def full(*_: Any, **__: Any) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    loop.load_model = full  # type: ignore[attr-defined]


def _work(folder: str, environment: dict[str, str], prepare: Preparation) -> None:
    os.environ.clear()
    os.environ.update(environment)
    prepare()
    sys.exit(worker.main([folder]))


class Worker:
    """A worker of its own process."""

    def __init__(self, folder: Path, environment: dict[str, str], prepare: Preparation) -> None:
        self._process = FORKS.Process(target=_work, args=(str(folder), environment, prepare))
        self._process.start()
        self.pid: int = self._process.pid or 0
        self.kill = self._process.kill

    def wait(self, timeout: float = PATIENCE) -> int | None:
        """Its exit code, once it ended."""
        self._process.join(timeout)
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode


class Bench:
    """A runs folder, seen from outside, and the processes that work on it."""

    def __init__(self, folder: Path, models_dir: Path) -> None:
        self.folder, self.models_dir = folder, models_dir
        self.lab = open_lab(folder, models_dir)
        self.processes: list[subprocess.Popen[str] | Worker] = []
        self.seen: dict[str, bytes] = {}
        self._plans: dict[RunConfig, Plan] = {}

    def create(self, steps: int = ENDLESS, state: str = "queued", worker: str = "", **training: Any) -> Run:
        """A run in the queue."""
        config = small_config(self.lab.settings.data_dir, self.folder / "rows.jsonl", steps, **training)
        if config not in self._plans:
            self._plans[config] = planning.plan(self.lab, config)
        return self.lab.store.create(config, self._plans[config], state, worker)

    def app(self) -> subprocess.Popen[str]:
        process = self._start("tests.faults.station", str(self.folder / "runs"), str(self.models_dir))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def worker(self, run: Run, prepare: Preparation = no_preparation) -> Worker:
        """A worker that begins at once; `prepare` runs in its process before."""
        process = Worker(run.folder, self._environment(), prepare)
        self.processes.append(process)
        return process

    def slow_worker(self, run: Run) -> subprocess.Popen[str]:
        """A worker that has everything to import yet."""
        return self._start("trainer.execution.worker", str(run.folder))

    def _environment(self) -> dict[str, str]:
        places = {"LAB_MODELS_DIR": str(self.models_dir), "LAB_DATA_DIR": str(self.lab.settings.data_dir)}
        return dict(os.environ) | places

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=self._environment(), stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def run(self, run: Run) -> Run:
        return self.lab.store.get(run.id)

    def state(self, run: Run) -> str:
        return self.run(run).history.state

    def until(self, run: Run, state: str, seconds: float = PATIENCE) -> None:
        wait_for(lambda: self.state(run) == state, seconds)

    def until_step(self, run: Run, step: int) -> None:
        wait_for(lambda: self.run(run).history.step >= step)

    def worker_of(self, run: Run) -> int:
        """Process id of the run's worker, once it has one."""
        found = wait_for(lambda: file_locks.holder(run.folder / "lock"))
        assert isinstance(found, int)
        return found

    def acknowledge(self, run: Run) -> None:
        """Remember every whole event that is there now: none of them may ever go."""
        data = (run.folder / "events.jsonl").read_bytes()
        self.seen[run.id] = data[: data.rfind(b"\n") + 1]

    def kill(self, run: Run) -> None:
        """Kill -9 the run's worker, and wait until it is gone."""
        process = self.worker_of(run)
        self.acknowledge(run)
        os.kill(process, signal.SIGKILL)
        wait_for(lambda: file_locks.holder(run.folder / "lock") != process)

    def page_shows(self, run: Run, state: str, *words: str) -> None:
        """The page tells of `state` in time, with the words, and offers what can be done."""
        wait_for(lambda: f'pill {state}"' in self.live(run)[0], PAGE_SECONDS)
        status, buttons = self.live(run)
        for word in words:
            assert word in status
        assert ("stop" in buttons) == (state in ("queued", *ACTIVE))
        assert ("resume" in buttons) <= (state in ("stopped", "interrupted", "failed"))
        assert [row["state"] for row in self.lab.store.summaries() if row["id"] == run.id] == [state]
        self.holds(run)

    def live(self, run: Run) -> tuple[str, set[str]]:
        """What a new page shows: the run's status, and the names of the buttons."""
        from ui.panels import live_run, run_buttons

        status, *others = live_run.refresh(self.lab, run.id, "")
        buttons = others[-1 - len(run_buttons.LABELS) : -1]
        return str(status), {
            name for name, update in zip(run_buttons.LABELS, buttons, strict=True) if update["visible"]
        }

    def holds(self, run: Run) -> None:
        """What must hold after every fault: no acknowledged event is lost, every whole row is an event."""
        data = (run.folder / "events.jsonl").read_bytes()
        assert data.startswith(self.seen.get(run.id, b""))
        lines = data[: data.rfind(b"\n") + 1].splitlines()
        assert all(isinstance(json.loads(line)["type"], str) for line in lines)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for run in self.lab.store.all():
            worker = file_locks.holder(run.folder / "lock")
            if worker:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)


def starts_of(run: Run) -> int:
    """How many workers began the run."""
    return sum(event.get("state") == "starting" for event in event_log.read(run.folder / "events.jsonl")[0])


def trains(run: Run) -> Callable[[], bool]:
    """Whether new steps arrive."""
    before = run.history.refresh().step
    return lambda: run.history.refresh().step > before + 1
