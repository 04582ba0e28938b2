"""Which GPU is whose: by the GPU itself, whatever each process sees and how it numbers what it sees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import wait_for
from tests.security.test_export import NoPlan
from trainer import devices, locks
from trainer.config import RunConfig
from trainer.runs import RunStore

TRAINING = (
    "import os, sys, types\nloop = sys.modules['trainer.loop'] = types.ModuleType('trainer.loop')\n"
    "loop.Places = lambda *_: None\n"
    "loop.train = lambda *_: bool(print('trains on', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)) or True\n"
    "from trainer import worker\nsys.exit(worker.main(sys.argv[1:]))"
)
"""A worker of which only the training itself is mocked: that needs a GPU."""


def train(folder: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "2,GPU-x"}
    return subprocess.Popen([sys.executable, "-c", TRAINING, str(folder)], env=environment)


def test_a_run_takes_the_first_gpu_that_is_free_of_those_it_may_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two shells: one sees GPU 2 alone and trains on it, the other one sees 2 and GPU-x."""
    store = RunStore(tmp_path)
    run, waiting = (store.create(RunConfig(), NoPlan()).folder for _ in range(2))  # type: ignore[arg-type]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert devices.devices() == ("cuda:0",)
    held = [locks.acquire(devices.lock_path("cuda:0"))]
    assert train(run).wait(timeout=30) == 0
    assert "trains on GPU-x" in (run / "worker.log").read_text()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-x")
    held.append(locks.acquire(devices.lock_path("cuda:0")))
    process = train(waiting)
    wait_for(lambda: "Waiting for cuda:0 or cuda:1" in (waiting / "events.jsonl").read_text(), 30)
    assert held[0] is not None
    held[0].close()
    assert process.wait(timeout=30) == 0
    assert "trains on 2" in (waiting / "worker.log").read_text()
