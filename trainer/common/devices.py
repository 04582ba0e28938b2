"""The machine's devices and their memory, without importing torch, and the lock that gives each to one run."""

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
CACHE_SECONDS = 1.0
"""Seconds for which a device's free memory is cached."""


@dataclass(frozen=True)
class Device:
    """A training device. `total` and `free` are bytes; 0 if unknown."""

    name: str
    total: int = 0
    free: int = 0
    bfloat16: bool = False
    """Whether the compute type `auto` is bfloat16 on it."""
    busy: bool = False
    """Whether another run is using it; the next run waits until it is free."""
    model: str = ""
    """Such as `NVIDIA H100 NVL`; empty if unknown."""

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"

    @property
    def room(self) -> int:
        """Bytes available to a run; 0 if unknown."""
        return self.free if self.free and not self.busy else self.total


CPU = Device("cpu")
_seen: dict[str, tuple[float, Device]] = {}


def devices() -> tuple[str, ...]:
    """Names of the training devices: `cuda:0`, … for every visible NVIDIA GPU, else `cpu`."""
    visible = _visible()
    count = _count() if visible is None else len(visible)
    return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)


def device() -> Device:
    """The first training device, and its memory, at most CACHE_SECONDS old."""
    name = devices()[0]
    asked, known = _seen.get(name, (0.0, CPU))
    if time.monotonic() - asked > CACHE_SECONDS or not asked:
        known = _query(name)
        _seen[name] = (time.monotonic(), known)
    return known


def visible_id(device: str) -> str:
    """The number or id of a GPU in CUDA_VISIBLE_DEVICES: `cuda:0` is the first visible one, perhaps not GPU 0."""
    number = int(device.partition(":")[2])
    visible = _visible()
    return str(number) if visible is None else visible[number]


def lock_path(device: str) -> Path:
    """The lock file of `device`, shared by all runs folders and command lines of this user.

    It is named after the GPU's own id, so programs that number GPUs differently share it. `LAB_DEVICE_LOCKS` sets
    another folder, for machines that several users share, and for tests.
    """
    name = "cpu" if device == "cpu" else f"gpu-{_uuid(visible_id(device)).replace('/', '-')}"
    folder = os.environ.get("LAB_DEVICE_LOCKS")
    base = Path(folder) if folder else Path(tempfile.gettempdir()) / f"lora-module-lab-{getpass.getuser()}"
    return base / f"{name}.lock"


def _query(name: str) -> Device:
    busy = file_locks.holder(lock_path(name)) not in (None, os.getpid())
    if name == "cpu":
        memory = psutil.virtual_memory()
        return Device(name, memory.total, memory.available, busy=busy)
    return Device(name, *_gpu(visible_id(name)), busy=busy)


def _visible() -> list[str] | None:
    """Numbers or ids of the visible GPUs; None if all are visible."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if listed is None else [part.strip() for part in listed.split(",") if part.strip() not in ("", "-1")]


def _count() -> int:
    """The number of NVIDIA GPUs. WSL and some containers lack the folder that lists them."""
    if _NVIDIA.is_dir():
        return len(list(_NVIDIA.iterdir()))
    nvml = _nvml()
    if nvml is not None:
        with contextlib.suppress(nvml.NVMLError):
            return int(nvml.nvmlDeviceGetCount())
    return 0


def _gpu(gpu: str) -> tuple[int, int, bool]:
    """Total and free bytes of a GPU, and whether it has bfloat16, from NVIDIA's driver."""
    nvml = _nvml()
    if nvml is None:
        return 0, 0, True
    with contextlib.suppress(nvml.NVMLError):
        handle = _handle(nvml, gpu)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return int(memory.total), int(memory.free), nvml.nvmlDeviceGetCudaComputeCapability(handle)[0] >= 8
    return 0, 0, True


def _uuid(gpu: str) -> str:
    """The driver's id of a GPU given by number or id; unchanged if there is no driver."""
    nvml = _nvml()
    if nvml is not None:
        with contextlib.suppress(nvml.NVMLError):
            return str(nvml.nvmlDeviceGetUUID(_handle(nvml, gpu)))
    return gpu


def _handle(nvml: Any, gpu: str) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdigit() else nvml.nvmlDeviceGetHandleByUUID(gpu)


@cache
def _nvml() -> Any:
    """NVIDIA's management library, initialized; None if it is not available."""
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
