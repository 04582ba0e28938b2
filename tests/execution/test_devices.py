"""Which GPU is whose: by the GPU itself, whatever each process sees and how it numbers what it sees."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.security.test_export import NoPlan
from tests.support.fake_nvml import process_environment
from tests.support.lab import PATIENCE, plan_of, small_config, wait_for
from trainer.common import device_holder, devices, file_locks
from trainer.common.device_holder import PAGE, Holder
from trainer.common.errors import UserError
from trainer.config.schema import RunConfig
from trainer.execution.scheduler import Scheduler
from trainer.runs.store import RunStore
from trainer.training.gpu import training_device

ROOT = Path(__file__).resolve().parents[2]
TRAINING = (
    "import os, sys, types\nloop = sys.modules['trainer.training.loop'] = types.ModuleType('trainer.training.loop')\n"
    "loop.RunPaths = lambda *_: None\n"
    "done = types.SimpleNamespace(finished=True, unchanged='')\n"
    "loop.train = lambda *_: print('trains on', os.environ['CUDA_VISIBLE_DEVICES'], flush=True) or done\n"
    "from trainer.execution import worker\nsys.exit(worker.main(sys.argv[1:]))"
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
    held = [file_locks.acquire(devices.lock_path("cuda:0"))]
    assert train(run).wait(PATIENCE) == 0
    assert "trains on GPU-x" in (run / "worker.log").read_text()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-x")
    held.append(file_locks.acquire(devices.lock_path("cuda:0")))
    assert held[0] is not None
    me = file_locks.identity(os.getpid())
    device_holder.write(held[0], Holder(me, "a-run", "Pirate", "/secret/other-runs", PAGE, time.time()))
    process = train(waiting)
    wait_for(lambda: "Waiting for cuda:0 or cuda:1" in (waiting / "events.jsonl").read_text())
    (log,) = [line for line in (waiting / "events.jsonl").read_text().splitlines() if "Waiting for" in line]
    said = json.loads(log)["text"]
    assert "“Pirate” in another runs folder, “other-runs”, has had cuda:0 since" in said
    assert "(started from the page)" in said and "secret" not in said
    held[0].close()
    assert process.wait(PATIENCE) == 0
    assert "trains on 2" in (waiting / "worker.log").read_text()


def test_a_worker_sees_its_own_gpu_alone_from_its_first_breath(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it imports looks for GPUs already. The first GPU is taken, so the run gets the second."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    held = file_locks.acquire(devices.lock_path("cuda:0"))
    assert held is not None
    store = RunStore(tmp_path)
    scheduler = Scheduler(store, tmp_path / "models", tmp_path / "data")
    scheduler.start()
    try:
        assert wait_for(lambda: seen_by_workers() == {"GPU-a"}), "the spare waits for the first GPU"
        run = store.create(RunConfig(), NoPlan())  # type: ignore[arg-type]
        scheduler.kick()
        wait_for(lambda: "GPU-b" in seen_by_workers())
        wait_for(lambda: run.history.refresh().recorded == "failed")  # there is no such GPU, and no such plan
    finally:
        scheduler.close()
        held.close()


@pytest.mark.parametrize(("visible", "nice"), [("", 10), ("GPU-x", 0)])
def test_only_a_worker_on_the_cpu_yields_to_the_page(visible: str, nice: int) -> None:
    """The threads that launch kernels must not wait for a core."""
    waits = "import trainer.training\ntrainer.training.loop = loop\nworker._wait()\nprint(os.nice(0))"
    worker = TRAINING.replace("sys.exit(worker.main(sys.argv[1:]))", waits)
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run(
        [sys.executable, "-c", worker], env=environment, cwd=ROOT, input=b"", capture_output=True, check=True
    )
    assert int(done.stdout) == os.nice(0) + nice


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch has a GPU")
def test_a_run_never_trains_on_the_cpu_where_the_driver_lists_a_gpu(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=2)
    run = RunStore(tmp_path / "runs").create(config, plan_of(config, models_dir))
    environment = process_environment(tmp_path, "550.54.15", 12040, ("2.13.0", "13.0"))
    environment |= {"LAB_MODELS_DIR": str(models_dir), "LAB_DATA_DIR": str(tmp_path / "data")}
    worker = [sys.executable, "-m", "trainer.execution.worker", str(run.folder)]
    assert subprocess.run(worker, env=environment, cwd=ROOT, check=False).returncode == 1
    history = run.history.refresh()
    assert history.recorded == "failed"
    assert "The driver 550.54.15 is too old for this torch (CUDA 13.0 needs 580 or newer)." in history.message
    assert 'CUDA_VISIBLE_DEVICES=""' in history.message
    # whatever else keeps torch from it, torch says
    monkeypatch.setattr(devices, "device", lambda: devices.Device("cuda:0", model="NVIDIA H100 NVL"))
    with pytest.raises(UserError, match=r"a GPU \(NVIDIA H100 NVL\), but torch cannot use it: Torch not"):
        training_device()


def seen_by_workers() -> set[str]:
    """The GPUs that the workers of this process were started with."""
    found = set()
    for child in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        for number in child.read_text().split():
            with contextlib.suppress(OSError):
                process = Path("/proc") / number
                if b"trainer.execution.worker" in (process / "cmdline").read_bytes():
                    variables = dict(
                        line.split("=", 1) for line in (process / "environ").read_text().split("\0") if "=" in line
                    )
                    assert variables["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
                    found.add(variables["CUDA_VISIBLE_DEVICES"])
    return found


def test_room_is_what_is_free_also_for_the_run_that_holds_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs may use the device, too; only another run's memory will be free when this one starts."""
    monkeypatch.setattr(devices, "_seen", {})
    held = file_locks.acquire(devices.lock_path("cpu"))
    assert held is not None
    mine = devices.device()
    assert (mine.busy, mine.room) == (False, mine.free)
    held.close()
    code = (
        "import sys\nfrom trainer.common import devices, file_locks\n"
        "held = file_locks.acquire(devices.lock_path('cpu'))\nprint(1, flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        monkeypatch.setattr(devices, "_seen", {})
        theirs = devices.device()
        assert (theirs.busy, theirs.room) == (True, theirs.total)
        other.kill()
