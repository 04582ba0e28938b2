"""What the devices are doing: utilization and memory in all, and by run. Read only while somebody asks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil

from trainer.common import devices
from trainer.common.nvidia import GpuLoad
from trainer.runs.store import RunStore

READ_SECONDS = 2.0
"""Least seconds between two readings, for all pages together."""
LONGEST_PAUSE = 10.0
"""Seconds without a reading after which the next one counts as the first."""


@dataclass(frozen=True)
class RunUsage:
    """What the processes of one run use."""

    title: str
    cpu: float | None
    """The cores that it has kept busy since the last reading; None at the first one."""
    memory: int
    """Bytes of RAM."""


@dataclass(frozen=True)
class GpuUsage:
    """What one GPU is doing."""

    device: str
    """`cuda:0`."""
    load: GpuLoad
    by_run: tuple[tuple[str, int], ...]
    """Titles of runs, and the bytes of its memory that each holds."""
    others: int | None
    """Bytes that other programs hold."""


@dataclass(frozen=True)
class Usage:
    """What the machine is doing."""

    cpu: float | None
    """The busy share of all cores since the last reading; None at the first one."""
    cores: int
    used: int
    """Bytes of RAM that are not available to programs."""
    total: int
    runs: tuple[RunUsage, ...]
    gpus: tuple[GpuUsage, ...]


class UsageMeter:
    """Reads what the devices are doing, at most every READ_SECONDS."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._read = 0.0
        self._usage: Usage | None = None
        self._processes: dict[int, psutil.Process] = {}
        """Kept, since psutil measures CPU time from one call to the next."""
        self._idle = 0.0
        """Seconds that all cores have been idle, at the last reading. Not `psutil.cpu_percent`, whose first answer in
        each thread is 0."""

    def read(self) -> Usage:
        """The newest reading."""
        with self._lock:
            pause = time.monotonic() - self._read
            if self._usage is None or pause >= READ_SECONDS:
                self._usage, self._read = self._measure(pause), time.monotonic()
            return self._usage

    def _measure(self, pause: float) -> Usage:
        """`pause`: seconds since the last reading; if it is long ago, CPU times since then say nothing."""
        memory, cores, follows = psutil.virtual_memory(), psutil.cpu_count() or 1, pause < LONGEST_PAUSE
        before, self._idle = self._idle, _idle_seconds()
        busy = min(1.0, max(0.0, 1 - (self._idle - before) / (pause * cores)))
        titles = self._titles()
        runs = tuple(
            RunUsage(titles[process], cpu if follows else None, held) for process, cpu, held in self._used(titles)
        )
        gpus = tuple(_gpu(name, titles) for name in devices.devices() if name != "cpu")
        held = memory.total - memory.available
        return Usage(busy if follows else None, cores, held, memory.total, runs, gpus)

    def _titles(self) -> dict[int, str]:
        """Titles of the active runs by the process id of their worker."""
        workers = ((run.history.process(), run.title) for run in self._store.open_runs())
        return {process: title for process, title in workers if process}

    def _used(self, titles: Mapping[int, str]) -> Iterator[tuple[int, float, int]]:
        """Of each of these processes: its id, the cores that it keeps busy, and the bytes that it holds."""
        self._processes = {process: info for process, info in self._processes.items() if process in titles}
        for process in titles:
            with contextlib.suppress(psutil.Error):  # it has just ended
                info = self._processes.setdefault(process, psutil.Process(process))
                yield process, info.cpu_percent() / 100, info.memory_info().rss


def _idle_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.idle + getattr(times, "iowait", 0.0))


def _gpu(name: str, titles: Mapping[int, str]) -> GpuUsage:
    load = devices.load(name)
    ours = {process: held for process, held in load.processes if process in titles}
    others = max(0, (load.used or 0) - sum(ours.values())) if load.used is not None else None
    return GpuUsage(name, load, tuple((titles[process], held) for process, held in ours.items()), others)
