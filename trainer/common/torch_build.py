"""What the installed torch was built for, read without importing it, and whether that fits the machine's GPU."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from trainer.common.errors import Issue
from trainer.common.nvidia import Driver, Gpu

OLDEST_DRIVERS = {12: 525, 13: 580}
"""The oldest NVIDIA driver for each major version of CUDA (CUDA release notes, "minor version compatibility")."""
LOWEST_CAPABILITIES = {13: (7, 5)}
"""The lowest compute capability for which a major version of CUDA compiles; torch may have left out more."""
GET_STARTED = "https://pytorch.org/get-started"
ON_THE_CPU = 'To train on the CPU instead, start with CUDA_VISIBLE_DEVICES="".'


class TorchBuild(NamedTuple):
    """A build of torch."""

    version: str = ""
    cuda: str = ""
    """Version of CUDA, such as `13.0`; empty if it is built without."""
    hip: str = ""
    """Version of ROCm; empty unless it is built for AMD's GPUs."""

    @property
    def title(self) -> str:
        """Such as `this torch (2.13.0+cpu)`."""
        return f"this torch ({self.version})" if self.version else "this torch"


@cache
def torch_build() -> TorchBuild:
    """The installed torch's build."""
    spec = find_spec("torch")
    places = list(spec.submodule_search_locations or ()) if spec else []
    try:
        text = (Path(places[0]) / "version.py").read_text(encoding="utf-8")
    except (IndexError, OSError):
        return TorchBuild()
    values = dict(re.findall(r"^(\w+)(?:\s*:[^=\n]*)?\s*=\s*['\"]([^'\"]*)['\"]", text, re.MULTILINE))
    return TorchBuild(values.get("__version__", ""), values.get("cuda", ""), values.get("hip", ""))


def obstacle(build: TorchBuild, driver: Driver, gpu: Gpu) -> Issue | None:
    """Why this torch cannot use an NVIDIA GPU with this driver; None if nothing is known against it."""
    name = gpu.model or "an NVIDIA GPU"
    if build.hip:
        problem = f"{_upper(build.title)} is a ROCm build, for AMD's GPUs, and cannot use {name}."
        return Issue("device", problem, f"Install torch's CUDA build ({GET_STARTED}). {ON_THE_CPU}")
    if not build.cuda:
        problem = f"{_upper(build.title)} is a CPU build and cannot use {name}."
        return Issue("device", problem, f"Install torch's CUDA build ({GET_STARTED}). {ON_THE_CPU}")
    major = int(build.cuda.partition(".")[0])
    if _too_old(driver, major):
        needs = f"{OLDEST_DRIVERS[major]} or newer" if major in OLDEST_DRIVERS else "a newer one"
        named = f"The driver {driver.version}".rstrip()
        problem = f"{named} is too old for this torch (CUDA {build.cuda} needs {needs})."
        other = f", or install a torch that was built for an older CUDA ({GET_STARTED})"
        return Issue("device", problem, f"Update NVIDIA's driver{other}. {ON_THE_CPU}")
    lowest = LOWEST_CAPABILITIES.get(major, (0, 0))
    return no_kernels(build, gpu) if gpu.capability is not None and gpu.capability < lowest else None


def no_kernels(build: TorchBuild, gpu: Gpu) -> Issue:
    """What to say of a GPU that this torch has no kernels for."""
    major, minor = gpu.capability or (0, 0)
    problem = f"{_upper(build.title)}, built for CUDA {build.cuda}, has no kernels for {gpu.model or 'this GPU'} "
    problem += f"(compute capability {major}.{minor})."
    return Issue("device", problem, f"Install a torch build that has them ({GET_STARTED}). {ON_THE_CPU}")


def _too_old(driver: Driver, major: int) -> bool:
    """Whether the driver is too old for CUDA `major`; False if its version is unknown."""
    if driver.cuda:
        return driver.cuda < major
    number = driver.version.partition(".")[0]
    return number.isdigit() and int(number) < OLDEST_DRIVERS.get(major, 0)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
