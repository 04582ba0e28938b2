"""Which devices this machine has and their room, without importing torch; the lock that keeps each for one run."""

from __future__ import annotations

import contextlib
import getpass
import importlib
import os
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from trainer.common import file_locks

_NVIDIA = Path("/proc/driver/nvidia/gpus")
FRESH = 1.0
"""Seconds for which what a device has free is not asked again."""


@dataclass(frozen=True)
class Device:
    """A training device. `total` and `free` are bytes; 0 where they are not known."""

    name: str
    total: int = 0
    free: int = 0
    bfloat16: bool = False
    """Computes in bfloat16 where the configuration leaves the type open."""
    busy: bool = False
    """Another run has it: the next one waits until all of it is free."""

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"

    @property
    def room(self) -> int:
        """Bytes that a run can have; 0 where nothing is known."""
        return self.free if self.free and not self.busy else self.total


CPU = Device("cpu")
_seen: dict[str, tuple[float, Device]] = {}


def devices() -> tuple[str, ...]:
    """Names of the training devices: `cuda:0`, … for every visible NVIDIA GPU, else `cpu`."""
    visible = _visible()
    count = _count() if visible is None else len(visible)
    return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)


def device() -> Device:
    """The first training device, and its memory, at most FRESH seconds old."""
    name = devices()[0]
    asked, known = _seen.get(name, (0.0, CPU))
    if time.monotonic() - asked > FRESH or not asked:
        known = _look(name)
        _seen[name] = (time.monotonic(), known)
    return known


def place(device: str) -> str:
    """The number or id by which CUDA_VISIBLE_DEVICES names a GPU: `cuda:0` is the first one to be seen, not GPU 0."""
    number = int(device.partition(":")[2])
    visible = _visible()
    return str(number) if visible is None else visible[number]


def lock_path(device: str) -> Path:
    """The lock file of `device`: one for all of this person's runs folders and command lines.

    It is named by the GPU itself, whatever each of them sees and numbers.
    `LAB_DEVICE_LOCKS` names another folder, for machines that several people share, or for tests.
    """
    name = "cpu" if device == "cpu" else f"gpu-{_uuid(place(device)).replace('/', '-')}"
    folder = os.environ.get("LAB_DEVICE_LOCKS")
    base = Path(folder) if folder else Path(tempfile.gettempdir()) / f"lora-module-lab-{getpass.getuser()}"
    return base / f"{name}.lock"


def _look(name: str) -> Device:
    busy = file_locks.holder(lock_path(name)) not in (None, os.getpid())
    if name == "cpu":
        memory = psutil.virtual_memory()
        return Device(name, memory.total, memory.available, busy=busy)
    return Device(name, *_gpu(place(name)), busy=busy)


def _visible() -> list[str] | None:
    """Numbers or ids of the GPUs that programs are to see; None where all are."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if listed is None else [part.strip() for part in listed.split(",") if part.strip() not in ("", "-1")]


def _count() -> int:
    """How many NVIDIA GPUs there are. Windows' Linux and some containers have no folder that lists them."""
    if _NVIDIA.is_dir():
        return len(list(_NVIDIA.iterdir()))
    nvml = _nvml()
    if nvml is not None:
        with contextlib.suppress(nvml.NVMLError):
            return int(nvml.nvmlDeviceGetCount())
    return 0


def _gpu(place: str) -> tuple[int, int, bool]:
    """Total and free bytes of a GPU, and whether it has bfloat16, from NVIDIA's driver."""
    nvml = _nvml()
    if nvml is None:
        return 0, 0, True
    with contextlib.suppress(nvml.NVMLError):
        handle = _handle(nvml, place)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return int(memory.total), int(memory.free), nvml.nvmlDeviceGetCudaComputeCapability(handle)[0] >= 8
    return 0, 0, True


def _uuid(place: str) -> str:
    """The id that the driver gives a GPU, by its number or id; as it was written, where there is no driver to ask."""
    nvml = _nvml()
    if nvml is not None:
        with contextlib.suppress(nvml.NVMLError):
            return str(nvml.nvmlDeviceGetUUID(_handle(nvml, place)))
    return place


def _handle(nvml: Any, place: str) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(int(place)) if place.isdigit() else nvml.nvmlDeviceGetHandleByUUID(place)


@cache
def _nvml() -> Any:
    """NVIDIA's management library, started; None where there is none."""
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
