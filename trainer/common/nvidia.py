"""NVIDIA's GPUs as the driver lists them, without torch. A partitioned GPU (MIG) counts as its slices."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_PROC = Path("/proc/driver/nvidia")
_CONTROL = Path("/dev/nvidiactl")
"""Through this file, programs reach the driver. Containers that were given no GPU lack it, but see all of /proc."""


class Gpu(NamedTuple):
    """A GPU, or a slice of one. What the driver does not tell is empty."""

    model: str = ""
    """Such as `NVIDIA H100 NVL`."""
    total: int = 0
    """Bytes."""
    free: int = 0
    capability: tuple[int, int] | None = None
    """Compute capability: (9, 0) is sm_90."""


class GpuLoad(NamedTuple):
    """What a GPU, or a slice of one, is doing. What the driver does not tell is None."""

    model: str = ""
    utilization: float | None = None
    """The share of the last moment in which a kernel ran, from 0 to 1."""
    used: int | None = None
    """Bytes."""
    total: int | None = None
    temperature: int | None = None
    """Degrees Celsius."""
    power: float | None = None
    """Watts."""
    processes: tuple[tuple[int, int], ...] = ()
    """Process ids, and the bytes that each holds; 0 if the driver does not tell."""


class Driver(NamedTuple):
    """NVIDIA's driver."""

    version: str = ""
    cuda: int = 0
    """Major version of the newest CUDA that it supports; 0 if unknown."""


def gpus() -> list[tuple[str, ...]]:
    """For each GPU, numbered as nvidia-smi does, its id or those of its slices. Without NVML, ids are numbers."""
    nvml = _nvml()
    if nvml is None:
        return [(str(number),) for number in range(_count())] if _CONTROL.exists() else []
    found = []
    with contextlib.suppress(nvml.NVMLError):
        for number in range(int(nvml.nvmlDeviceGetCount())):
            found.append(_ids(nvml, number))
    return found


def unreachable() -> bool:
    """Whether the machine has a GPU that this container was not given."""
    return _nvml() is None and not _CONTROL.exists() and _count() > 0


def find(name: str) -> tuple[str, ...]:
    """The ids of the GPU that an entry of CUDA_VISIBLE_DEVICES names: a number, an id, or the beginning of one.

    The entry itself if there is none.
    """
    known = gpus()
    if name.isdigit():
        return known[int(name)] if int(name) < len(known) else (name,)
    matching = [identifier for identifiers in known for identifier in identifiers if identifier.startswith(name)]
    return (matching[0],) if matching else (name,)


def query(identifier: str) -> Gpu | None:
    """The GPU with this id; None if the driver does not list it."""
    nvml = _nvml()
    if nvml is None:
        return Gpu()
    try:
        handle = _handle(nvml, identifier)
    except nvml.NVMLError:
        return None
    model, total, free, capability = "", 0, 0, None
    with contextlib.suppress(nvml.NVMLError):
        model = str(nvml.nvmlDeviceGetName(handle))
    with contextlib.suppress(nvml.NVMLError):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    with contextlib.suppress(nvml.NVMLError):
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(_whole(nvml, handle))
        capability = (int(major), int(minor))
    return Gpu(model, total, free, capability)


def load(identifier: str) -> GpuLoad:
    """What the GPU with this id is doing."""
    nvml = _nvml()
    if nvml is None:
        return GpuLoad()
    try:
        handle = _handle(nvml, identifier)
    except nvml.NVMLError:
        return GpuLoad()
    memory = _or_none(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    milliwatts = _or_none(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    utilization = _or_none(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    running = _or_none(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or ()
    return GpuLoad(
        str(_or_none(nvml, lambda: nvml.nvmlDeviceGetName(handle)) or ""),
        None if utilization is None else utilization / 100,
        None if memory is None else int(memory.total) - int(memory.free),
        None if memory is None else int(memory.total),
        _or_none(nvml, lambda: int(nvml.nvmlDeviceGetTemperature(_whole(nvml, handle), nvml.NVML_TEMPERATURE_GPU))),
        None if milliwatts is None else milliwatts / 1000,
        tuple((int(process.pid), int(process.usedGpuMemory or 0)) for process in running),
    )


def _or_none(nvml: Any, ask: Callable[[], Any]) -> Any:
    """What the driver says; None if it does not tell, as for most figures of a slice."""
    try:
        return ask()
    except nvml.NVMLError:
        return None


def driver() -> Driver:
    """The driver's version and CUDA version, as far as they are known."""
    version, cuda, nvml = "", 0, _nvml()
    if nvml is not None:
        with contextlib.suppress(nvml.NVMLError):
            version = str(nvml.nvmlSystemGetDriverVersion())
        with contextlib.suppress(nvml.NVMLError):  # asks libcuda, which may be newer than the driver (cuda-compat)
            cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2()) // 1000
    if not version:
        with contextlib.suppress(OSError):
            text = (_PROC / "version").read_text(encoding="utf-8", errors="replace")
            match = re.search(r"Kernel Module\b.*?\s(\d+\.\d+[.\d]*)", text)
            version = match[1] if match else ""
    return Driver(version, cuda)


def _count() -> int:
    """The GPUs of the machine. WSL and some containers lack the folder, or have an empty one."""
    folder = _PROC / "gpus"
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def _ids(nvml: Any, number: int) -> tuple[str, ...]:
    """The id of a GPU, or of its slices; its number if the driver does not give an id."""
    try:
        gpu = nvml.nvmlDeviceGetHandleByIndex(number)
        return _slices(nvml, gpu) or (str(nvml.nvmlDeviceGetUUID(gpu)),)
    except nvml.NVMLError:
        return (str(number),)


def _slices(nvml: Any, gpu: Any) -> tuple[str, ...]:
    """The ids of a GPU's MIG slices; empty if it is not partitioned."""
    found = []
    with contextlib.suppress(nvml.NVMLError):  # most GPUs cannot be partitioned
        most = nvml.nvmlDeviceGetMaxMigDeviceCount(gpu) if nvml.nvmlDeviceGetMigMode(gpu)[0] else 0
        for number in range(most):
            with contextlib.suppress(nvml.NVMLError):  # numbers may be missing
                found.append(str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number))))
    return tuple(found)


def _whole(nvml: Any, handle: Any) -> Any:
    """The GPU that a slice is part of; any other GPU is itself."""
    try:
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    except nvml.NVMLError:
        return handle


def _handle(nvml: Any, identifier: str) -> Any:
    if identifier.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(identifier))
    return nvml.nvmlDeviceGetHandleByUUID(identifier)


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
