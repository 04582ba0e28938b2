"""Memory and disks that run out, files that vanish: real limits, real refusals."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults.bench import Bench, limit_files, run_out_of_memory
from tests.support import tiny
from tests.support.lab import wait_for
from trainer.common.errors import UserError
from trainer.runs import lifecycle
from trainer.service import exports
from trainer.service.data import keep_data
from trainer.training import checkpoints

CGROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def small_disk(tmp_path: Path, models_dir: Path) -> Iterator[Bench]:
    """A bench on a disk of its own of 6 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(place)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a disk of its own needs root, and the right to mount")
    bench = Bench(place, models_dir)
    yield bench
    bench.close()
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Take all space of the disk but `leave` bytes."""
    path = folder / "filling"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))
    return path


def test_a_full_disk_keeps_the_checkpoint_before_and_the_app(small_disk: Bench, tmp_path: Path) -> None:
    bench = small_disk
    run = bench.create(save_steps=3)
    app = bench.app()
    wait_for(lambda: checkpoints.bytes_of_newest(run.folder / "checkpoints"))
    bench.acknowledge(run)
    filling = fill(bench.folder)
    bench.until(run, "failed")
    bench.page_shows(run, "failed", "disk", "Free some space")
    assert bench.run(run).history.cause == "disk"
    assert app.poll() is None
    fill(bench.folder / "runs")  # what the worker gave back
    with pytest.raises(UserError, match="disk"):
        bench.create()
    with pytest.raises(UserError, match="disk is full"):
        keep_data(tiny.save_rows(tmp_path / "other.jsonl", 400), bench.lab.settings.data_dir)
    assert not list((bench.folder / "runs").glob(".20*")), "no draft of a run is left"
    filling.unlink()
    (bench.folder / "runs" / "filling").unlink()
    assert checkpoints.newest_complete(run.folder / "checkpoints") is not None, "the checkpoint before is whole"
    lifecycle.resume_run(bench.run(run))
    bench.until_step(run, bench.run(run).history.step + 2)


@pytest.mark.full
def test_an_export_to_a_full_disk_leaves_nothing_behind(small_disk: Bench) -> None:
    bench = small_disk
    run = bench.create(steps=2, state="starting")
    assert bench.worker(run).wait() == 0
    filling = fill(bench.folder)
    folder = bench.lab.settings.exports_dir
    with pytest.raises(UserError, match="Free some space") as caught:
        exports.adapter(bench.lab, run.id)
    assert caught.value.cause == "disk"
    assert list(folder.iterdir()) == []
    bench.page_shows(run, "finished")
    filling.unlink()
    assert exports.adapter(bench.lab, run.id).is_file()


@pytest.mark.parametrize("limit", ["a checkpoint", pytest.param("the events", marks=pytest.mark.full)])
def test_what_torch_says_of_a_refused_write_is_a_disk_that_is_full(limit: str, bench: Bench) -> None:
    """RLIMIT_FSIZE: the kernel refuses in the middle of a file, after the space check found room."""
    run = bench.create(save_steps=4, state="starting")
    size = 40_000 if limit == "a checkpoint" else 2_500
    assert bench.worker(run, partial(limit_files, size)).wait() == 1
    if limit == "a checkpoint":
        bench.page_shows(run, "failed", "disk")
        assert not list((run.folder / "checkpoints").glob("checkpoint-*")), "the half one is gone"
    else:  # the event that was refused may be larger than the last one, which then still found room
        assert (bench.state(run), bench.run(run).history.cause) in (("failed", "disk"), ("interrupted", ""))
        bench.page_shows(run, bench.state(run))


@pytest.mark.full
def test_no_room_for_a_checkpoint_is_told_before_it_is_begun(small_disk: Bench) -> None:
    bench = small_disk
    run = bench.create(save_steps=4, state="starting")
    fill(bench.folder, leave=1_000_000)
    assert bench.worker(run).wait() == 1
    bench.page_shows(run, "failed", "disk", "checkpoint needs")


def test_a_device_out_of_memory_names_what_to_lower_and_frees_it(bench: Bench) -> None:
    run = bench.create(state="starting", max_length=64)
    assert bench.worker(run, run_out_of_memory).wait() == 1
    bench.page_shows(
        run, "failed", "out of memory", "activations",
        "per_device_train_batch_size from 4 to 2", "max_length from 64 to 32", "activation_checkpointing to on",
    )  # fmt: skip
    assert bench.run(run).history.cause == "oom"


@pytest.mark.full
def test_the_system_kills_a_worker_for_memory(bench: Bench) -> None:
    """The kernel's own out-of-memory kill, in a control group that leaves a worker no page to grow by."""
    group = CGROUPS / f"lab-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("100000")
    except OSError:
        pytest.skip("control groups cannot be made here")
    try:
        run, after = bench.create(), bench.create()
        app = bench.app()
        bench.until_step(run, 1)
        (group / "cgroup.procs").write_text(str(bench.worker_of(run)))
        bench.until(run, "failed")
        bench.page_shows(run, "failed", "memory", "max_length from 64 to 32")
        assert app.poll() is None
        bench.until_step(after, 1)
    finally:
        bench.close()
        wait_for(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_model_and_data_vanish_in_the_middle_of_a_run(bench: Bench, tmp_path: Path) -> None:
    """What is loaded trains on and saves; a resume says what is missing."""
    models = tmp_path / "models"
    shutil.copytree(bench.models_dir / "phi3", models / "phi3")
    bench.models_dir = models
    run = bench.create(state="starting")
    worker = bench.worker(run)
    bench.until_step(run, 2)
    shutil.rmtree(models)
    shutil.rmtree(bench.lab.settings.data_dir)
    wait_for(lambda: bench.run(run).history.step >= 5)
    lifecycle.stop_run(bench.run(run))
    assert worker.wait() == 3
    bench.page_shows(run, "stopped", "adapter")
    assert (run.adapter / "adapter_model.safetensors").is_file()
    again = bench.worker(bench.run(run))
    assert again.wait() == 1
    bench.page_shows(run, "failed")
    assert bench.run(run).history.cause in ("model", "data")
