"""What the devices are doing, by run: with the driver's figures of GPUs, and a worker on the CPU."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.security.test_export import NoPlan
from tests.support.fake_nvml import Card, Nvml, Process
from trainer.common import file_locks, nvidia
from trainer.config.schema import RunConfig
from trainer.execution import device_usage
from trainer.execution.device_usage import UsageMeter
from trainer.runs.store import RunStore
from ui.panels import device

GB = 10**9
SLICE = Card("MIG-a", "NVIDIA A100 MIG 1g.10gb", total=10 * GB, free=9 * GB)


@pytest.fixture
def lab(tmp_path: Path) -> Any:
    """A lab with one running run, whose worker is this process."""
    store = RunStore(tmp_path)
    me = file_locks.identity(os.getpid())
    store.create(RunConfig(title="Pirate"), NoPlan(), "starting", me)  # type: ignore[arg-type]
    return SimpleNamespace(usage=UsageMeter(store))


def rows(lab: Any) -> dict[str, str]:
    return dict(json.loads(device.content(lab))["rows"])


def test_cpu_and_ram_by_run_at_most_once_in_a_while(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    first = json.loads(device.content(lab))
    assert first["line"].startswith("CPU – · RAM ")
    assert rows(lab)["  Pirate"].endswith("B")
    assert device.content(lab) == json.dumps(first)  # the same reading
    monkeypatch.setattr(device_usage, "READ_SECONDS", 0.0)
    wall, busy = time.monotonic(), time.process_time()
    device.content(lab)
    while time.process_time() < busy + 0.3:
        pass
    cores = float(rows(lab)["  Pirate"].split()[0])
    assert cores == pytest.approx((time.process_time() - busy) / (time.monotonic() - wall), abs=0.25)
    assert cores > 0


def test_gpus_by_run(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    used = (Process(os.getpid(), 6 * GB), Process(1, 2 * GB))
    cards = [Card("GPU-a", free=70 * GB, processes=used), replace(SLICE, whole=Card("GPU-b"))]
    monkeypatch.setattr(nvidia, "_nvml", lambda: Nvml(cards))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    shown = json.loads(device.content(lab))
    whole, part = "93 % · 10.0 of 80 GB · 54 °C · 412 W", "1.0 of 10 GB · 54 °C"
    assert shown["line"] == f"H100 NVL: {whole} · A100 MIG 1g.10gb: {part}"
    assert shown["rows"][:4] == [
        ["cuda:0 NVIDIA H100 NVL", whole],
        ["  Pirate", "6.00 GB"],
        ["  Other programs", "4.00 GB"],
        ["cuda:1 NVIDIA A100 MIG 1g.10gb", part],
    ]
