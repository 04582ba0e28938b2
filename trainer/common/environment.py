"""The machine and library versions that a result was measured with. Imports none of the libraries."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from trainer.common.formatting import size

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets")


def machine() -> dict[str, str]:
    """Processor, memory, GPUs, system and versions by name; unknown ones are left out."""
    # psutil does not report the processor's name
    processor = _first("/proc/cpuinfo", r"model name.*: (.+)") or platform.machine()
    facts = {
        "Processor": f"{processor}, {psutil.cpu_count()} cores",
        "Memory": size(psutil.virtual_memory().total),
        "GPUs": _gpus(),
        "System": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
    }
    return {name: value for name, value in facts.items() if value}


def _gpus() -> str:
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return ", ".join(filter(None, (_first(str(file), r"Model: +(.+)") for file in files)))


def _first(path: str, pattern: str) -> str:
    try:
        match = re.search(pattern, Path(path).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return match[1].strip() if match else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
