"""Which devices this machine has, without importing torch, and the lock that keeps each for one run."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

_NVIDIA = Path("/proc/driver/nvidia/gpus")


def devices() -> tuple[str, ...]:
    """Names of the training devices: `cuda:0`, … for every visible NVIDIA GPU, else `cpu`."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        count = len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    else:
        count = len(list(_NVIDIA.iterdir())) if _NVIDIA.is_dir() else 0
    return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)


def has_gpu() -> bool:
    return devices() != ("cpu",)


def lock_path(device: str) -> Path:
    """The lock file of `device`: one for all of this person's runs folders and command lines.

    `LAB_DEVICE_LOCKS` names another folder, for machines that several people share, or for tests.
    """
    folder = os.environ.get("LAB_DEVICE_LOCKS")
    base = Path(folder) if folder else Path(tempfile.gettempdir()) / f"lora-module-lab-{getpass.getuser()}"
    return base / f"{device.replace(':', '-')}.lock"
