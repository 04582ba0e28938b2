"""Workers and apps killed -9: at random moments, in the middle of a checkpoint, one and both."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.faults.bench import Bench, starts_of, trains
from tests.support.lab import PATIENCE, wait_for
from trainer.common import file_locks
from trainer.runs import lifecycle
from trainer.training import checkpoints


def test_a_worker_killed_anywhere_goes_on_from_a_whole_checkpoint(bench: Bench) -> None:
    run = bench.create(save_steps=2)
    bench.app()
    chance = random.Random(7)
    for moment in ("random", "checkpoint"):
        before = bench.run(run).history.step
        bench.until_step(run, before + 4)
        if moment == "checkpoint":
            _wait_for_half_a_checkpoint(bench, run)
        else:
            time.sleep(chance.random())
        bench.kill(run)
        bench.page_shows(run, "failed", "killed", "per_device_train_batch_size from 4 to 2")
        assert bench.run(run).history.cause == "oom"
        left = sorted((run.folder / "checkpoints").glob("checkpoint-*"))
        assert any(map(checkpoints.is_complete, left)), "an older one is always whole"
        lifecycle.resume_run(bench.run(run))
    bench.until_step(run, bench.run(run).history.step + 2)
    os.kill(bench.worker_of(run), signal.SIGVTALRM)  # as the kernel does to a template that cannot be interrupted
    bench.page_shows(run, "failed", "chat template ran far beyond its time limit")
    assert bench.run(run).history.cause == "data"
    steps = bench.run(run).history.train.curve("loss")[0].tolist()
    assert steps == list(range(1, len(steps) + 1)), "no step is missing"
    assert starts_of(run) == 3


def _wait_for_half_a_checkpoint(bench: Bench, run: object) -> None:
    folder = bench.lab.store.get(run.id).folder / "checkpoints"  # type: ignore[attr-defined]
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if any(not (path / checkpoints.MARKER).exists() for path in folder.glob("checkpoint-*")):
            return
    raise AssertionError("no checkpoint was seen half written")


def test_the_app_killed_then_both(bench: Bench) -> None:
    run, waiting = bench.create(), bench.create()
    app = bench.app()
    bench.until_step(run, 1)
    worker = bench.worker_of(run)
    bench.acknowledge(run)
    os.kill(app.pid, signal.SIGKILL)
    app.wait()
    wait_for(trains(bench.run(run)))
    bench.page_shows(run, "running")
    app = bench.app()
    wait_for(trains(bench.run(run)))
    assert bench.worker_of(run) == worker, "it is the same worker"
    assert starts_of(run) == 1
    assert bench.state(waiting) == "queued", "one at a time, also over two lives of the app"
    os.kill(app.pid, signal.SIGKILL)
    bench.kill(run)
    bench.page_shows(run, "interrupted", "Resume starts from the beginning")
    bench.app()
    wait_for(lambda: bench.state(waiting) == "starting")
    assert bench.state(run) == "interrupted"
    assert lifecycle.stop_run(bench.run(waiting)), "a stop is never refused"
    bench.until(waiting, "stopped")
    lifecycle.resume_run(bench.run(run))
    bench.until_step(run, bench.run(run).history.step + 2)
    assert "Stopping" in lifecycle.stop_run(bench.run(run))
    assert "Killed" in lifecycle.stop_run(bench.run(run))
    bench.page_shows(run, "stopped", "second stop")


@pytest.mark.full
def test_two_apps_and_twenty_starts_at_once(bench: Bench) -> None:
    first = bench.app()
    bench.app()
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(20) as pool:
        runs = list(pool.map(lambda _: bench.create(), range(20)))
    assert len({run.id for run in runs}) == 20
    order = sorted(runs, key=lambda run: int((run.folder / "place").read_text()))
    # the first to be complete starts, which need not be the first that was asked for
    started = wait_for(lambda: next((run for run in order if bench.state(run) == "running"), None))
    order.insert(0, order.pop(order.index(started)))
    lifecycle.put_first(bench.lab.store, order[-1].id)
    states = [row["state"] for row in bench.lab.store.summaries()]
    assert sorted(states) == ["queued"] * 19 + ["running"]
    os.kill(first.pid, signal.SIGKILL)
    lifecycle.stop_run(bench.run(order[0]))
    wait_for(lambda: bench.state(order[-1]) == "starting")
    assert bench.state(order[1]) == "queued", "the one put first goes first, and the other app took over"
    for run in runs:
        lifecycle.stop_run(bench.run(run))
    bench.until(order[-1], "stopped")
    assert [starts_of(run) for run in order] == [1, *[0] * 18, 1]
    assert all(file_locks.holder(run.folder / "lock") is None for run in runs)
