"""NVIDIA's management library as machines with GPUs have it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class NVMLError(Exception):
    """What the library raises."""


@dataclass(frozen=True)
class Card:
    """A GPU, or a slice of one."""

    uuid: str
    name: str = "NVIDIA H100 NVL"
    capability: tuple[int, int] = (9, 0)
    total: int = 80 * 10**9
    free: int = 70 * 10**9
    slices: tuple[Card, ...] = ()
    """Of a partitioned GPU."""
    whole: Card | None = None
    """Of a slice: the GPU."""
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True)
class Process:
    """A process that uses a GPU."""

    pid: int
    usedGpuMemory: int | None
    """None where the driver does not tell."""


@dataclass(frozen=True)
class Rates:
    gpu: int


class Nvml:
    """Stands in for the module `pynvml`. Cards are their own handles."""

    NVMLError = NVMLError

    def __init__(self, cards: Sequence[Card], driver: str = "580.65.06", cuda: int = 13000) -> None:
        self.cards, self.driver, self.cuda = cards, driver, cuda
        self.asked = 0

    def nvmlInit(self) -> None:
        pass

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.driver

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> Card:
        if number >= len(self.cards):
            raise NVMLError("Invalid Argument")
        return self.cards[number]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:
        known = {part.uuid: part for card in self.cards for part in (card, *card.slices)}
        if uuid not in known:
            raise NVMLError("Not Found")
        return known[uuid]

    def nvmlDeviceGetUUID(self, card: Card) -> str:
        return card.uuid

    def nvmlDeviceGetName(self, card: Card) -> str:
        return card.name

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> Card:
        self.asked += 1
        return card

    NVML_TEMPERATURE_GPU = 0

    def nvmlDeviceGetUtilizationRates(self, card: Card) -> Rates:
        if card.whole is not None:
            raise NVMLError("Not Supported")
        return Rates(93)

    def nvmlDeviceGetTemperature(self, card: Card, _sensor: int) -> int:
        if card.whole is not None:
            raise NVMLError("Invalid Argument")
        return 54

    def nvmlDeviceGetPowerUsage(self, card: Card) -> int:
        if card.whole is not None:
            raise NVMLError("Invalid Argument")
        return 412_345

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> tuple[Process, ...]:
        return card.processes

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> tuple[int, int]:
        if card.whole is not None:
            raise NVMLError("Not Supported")
        return card.capability

    def nvmlDeviceGetMigMode(self, card: Card) -> list[int]:
        if card.capability < (8, 0):
            raise NVMLError("Not Supported")
        return [int(bool(card.slices))] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, _: Card) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, number: int) -> Card:
        if number % 2 == 0 or number // 2 >= len(card.slices):  # numbers may be missing
            raise NVMLError("Not Found")
        return card.slices[number // 2]

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, card: Card) -> Card:
        if card.whole is None:
            raise NVMLError("Invalid Argument")
        return card.whole


def process_environment(folder: Path, driver: str, cuda: int, torch: tuple[str, str]) -> dict[str, str]:
    """The environment of a process on a machine with one H100, and a torch of this version, built for this CUDA."""
    code = (
        "import sys\nfrom tests.support.fake_nvml import Card, Nvml\n"
        "from trainer.common import devices, torch_build\n"
        f"sys.modules[__name__] = Nvml([Card('GPU-one')], {driver!r}, {cuda})\n"
        f"devices.torch_build = lambda: torch_build.TorchBuild(*{torch!r})\n"
    )
    (folder / "pynvml.py").write_text(code, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"} | {"PYTHONPATH": path}
