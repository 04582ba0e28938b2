"""The training devices and their memory, without importing torch, and the lock that gives each to one run."""

from __future__ import annotations

import getpass
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from trainer.common import file_locks, nvidia
from trainer.common.errors import Issue
from trainer.common.torch_build import obstacle, torch_build
from trainer.common.triton_compiler import NoTriton, no_triton

_AMD = Path("/sys/class/kfd/kfd/topology/nodes")
CACHE_SECONDS = 1.0
"""Seconds for which a device's free memory is cached."""


@dataclass(frozen=True)
class Device:
    """A training device. `total` and `free` are bytes; 0 if unknown."""

    name: str
    total: int = 0
    free: int = 0
    bfloat16: bool = False
    """Whether it computes in bfloat16; emulation does not count."""
    busy: bool = False
    """Whether another run is using it; the next run waits until it is free."""
    float16: bool = False
    """Whether it has fast matrix products in float16."""
    float8: bool = False
    """Whether it has matrix products in FP8."""
    model: str = ""
    """Such as `NVIDIA H100 NVL`; empty if unknown."""
    rocm: str = ""
    """Version of ROCm that torch runs it with; empty unless it is AMD's."""
    no_triton: NoTriton | None = None
    """Why Triton cannot compile kernels for it."""
    issue: Issue | None = None
    """Why torch cannot use it."""
    beside_gpu: bool = False
    """It is the CPU of a machine with a GPU, which this container was not given."""

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"

    @property
    def room(self) -> int:
        """Bytes available to a run; 0 if unknown."""
        return self.free if self.free and not self.busy else self.total

    @property
    def auto_dtype(self) -> str:
        """The compute type `auto`."""
        return "bfloat16" if self.bfloat16 else "float16" if self.float16 else "float32"


CPU = Device("cpu")
_seen: dict[str, tuple[float, Device]] = {}
"""By the GPU's id, or `cpu`: when it was asked, and its answer."""


def devices() -> tuple[str, ...]:
    """Names of the training devices: `cuda:0`, … for every visible GPU or slice of one, else `cpu`."""
    return tuple(f"cuda:{number}" for number in range(len(_visible()))) or ("cpu",)


def device() -> Device:
    """The first training device, and its memory, at most CACHE_SECONDS old."""
    name = devices()[0]
    key = environment(name).get("CUDA_VISIBLE_DEVICES", name)  # `cuda:0` may become another GPU
    asked, known = _seen.get(key, (0.0, CPU))
    if time.monotonic() - asked > CACHE_SECONDS or not asked:
        known = _query(name)
        _seen[key] = (time.monotonic(), known)
    return known


def environment(device: str) -> dict[str, str]:
    """The variables of a process that trains on `device`, set before it looks for GPUs: it sees no other GPU.

    GPUs are numbered as nvidia-smi does; CUDA's own order is by speed.
    """
    only = {} if device == "cpu" else {"CUDA_VISIBLE_DEVICES": _visible_id(device)}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **only}


def lock_path(device: str) -> Path:
    """The lock file of `device`, shared by all runs folders and command lines of this user.

    It is named after the GPU's own id, so programs that number GPUs differently share it. `LAB_DEVICE_LOCKS` sets
    another folder, for machines that several users share, and for tests.
    """
    name = "cpu" if device == "cpu" else f"gpu-{_visible_id(device).replace('/', '-')}"
    folder = os.environ.get("LAB_DEVICE_LOCKS")
    base = Path(folder) if folder else Path(tempfile.gettempdir()) / f"lora-module-lab-{getpass.getuser()}"
    return base / f"{name}.lock"


def load(device: str) -> nvidia.GpuLoad:
    """What the GPU `device` is doing."""
    return nvidia.load(_visible_id(device))


def is_taken(device: str) -> bool:
    """Whether a run has `device`."""
    return file_locks.holder(lock_path(device)) is not None


def locks_are_shared() -> bool:
    """Whether other users of the machine take the same locks."""
    return bool(os.environ.get("LAB_DEVICE_LOCKS"))


def _query(name: str) -> Device:
    busy = file_locks.holder(lock_path(name)) not in (None, os.getpid())
    if name == "cpu":
        memory = psutil.virtual_memory()
        ignored = "CUDA_VISIBLE_DEVICES" in os.environ
        return Device(
            name, memory.total, memory.available, busy=busy, beside_gpu=not ignored and nvidia.unreachable()
        )
    identifier, build = _visible_id(name), torch_build()
    if build.hip and _amd_gpus():
        return Device(name, bfloat16=True, float16=True, busy=busy, rocm=build.hip, no_triton=no_triton())
    found = nvidia.query(identifier)
    gpu = found or nvidia.Gpu()
    return Device(
        name,
        gpu.total,
        gpu.free,
        bfloat16=gpu.capability is None or gpu.capability >= (8, 0),
        float16=gpu.capability is None or gpu.capability >= (7, 0),
        float8=gpu.capability is None or gpu.capability >= (8, 9),
        busy=busy,
        model=gpu.model,
        no_triton=no_triton(),
        issue=obstacle(build, nvidia.driver(), gpu) if found else _unlisted(identifier),
    )


def _visible() -> list[str]:
    """The ids of the GPUs that a run may use, or of their slices; numbers if the driver gives no ids."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    amd = _amd_gpus() if torch_build().hip else []
    if listed is None:
        return amd or [identifier for gpu in nvidia.gpus() for identifier in gpu]
    names = [part.strip() for part in listed.split(",") if part.strip()]
    names = names[: names.index("-1")] if "-1" in names else names  # as CUDA reads it
    return names if amd else [identifier for name in names for identifier in nvidia.find(name)]


def _visible_id(device: str) -> str:
    """The id of a GPU: `cuda:0` is the first visible one, perhaps not GPU 0."""
    return _visible()[int(device.partition(":")[2])]


def _amd_gpus() -> list[str]:
    """The numbers of AMD's GPUs, as its kernel driver lists them: nodes with compute units."""
    files = sorted(_AMD.glob("*/properties"), key=lambda file: int(file.parent.name))
    found = [file for file in files if "simd_count 0\n" not in file.read_text(encoding="ascii", errors="replace")]
    return [str(number) for number, _ in enumerate(found)]


def _unlisted(name: str) -> Issue:
    problem = f"CUDA_VISIBLE_DEVICES names {name}, which NVIDIA's driver does not list."
    return Issue("device", problem, "Compare it with nvidia-smi -L, and start again.")
