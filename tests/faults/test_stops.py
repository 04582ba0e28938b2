"""SIGTERM and Stop in every phase of a run."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.faults.bench import Bench
from tests.support.lab import PATIENCE, wait_for
from trainer.cli.main import main
from trainer.common import file_locks
from trainer.runs import lifecycle
from trainer.runs.run import Run
from trainer.training import checkpoints


def says(run: Run, text: str) -> bool:
    return text in (run.folder / "events.jsonl").read_text(encoding="utf-8")


# what is caught before anything is loaded, before and within training; the phases between are like their neighbors
PHASES = [
    *("before its worker is up", "Loading the weights", "saving"),
    *(pytest.param(phase, marks=pytest.mark.full) for phase in ("Reading the data", "eval")),
]


@pytest.mark.parametrize("phase", PHASES)
def test_sigterm_in_any_phase_saves_what_there_is_and_ends(phase: str, bench: Bench) -> None:
    run = bench.create(state="starting", worker="", save_steps=2)
    worker: Any = bench.slow_worker(run) if phase == "before its worker is up" else bench.worker(run)
    if phase == "before its worker is up":
        run.history.refresh()
        lifecycle.record(run, ["starting"], "starting", worker=file_locks.identity(worker.pid))
        assert "worker has started" in lifecycle.stop_run(run)
    else:
        if phase == "saving":
            wait_for(lambda: list((run.folder / "checkpoints").glob("checkpoint-*")))
        else:
            wait_for(lambda: says(run, f'"type": "{phase}"' if phase == "eval" else phase))
        bench.acknowledge(run)
        os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait(PATIENCE) == 3
    bench.page_shows(run, "stopped")
    saved = checkpoints.newest_complete(run.folder / "checkpoints")
    assert (saved is not None) == (phase in ("eval", "saving"))
    assert (run.adapter / "adapter_model.safetensors").exists() == (phase in ("eval", "saving"))
    if saved:
        assert json.loads((saved / "trainer_state.json").read_text())["global_step"] == bench.run(run).history.step


def test_a_finished_run_trains_longer_and_its_first_configuration_stays(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    run = bench.create(steps=3)
    assert bench.worker(run).wait() == 0
    first = (run.folder / "config.json").read_bytes()
    words = ["--runs-dir", str(run.folder.parent), "--models-dir", str(bench.models_dir), "resume", run.id]
    assert (main(words), "more epochs" in capsys.readouterr().err) == (2, True)
    assert main([*words, "--epochs", "0.1"]) == 0
    run = bench.run(run)
    assert run.config is not None
    assert run.config.training.max_steps == run.history.steps == run.history.step == 5
    assert run.history.train.curve("loss")[0].tolist() == [1, 2, 3, 4, 5]
    assert (run.folder / "config.json").read_bytes() == first
    bench.page_shows(run, "finished")


@pytest.mark.full
def test_a_second_ctrl_c_ends_it_at_once(bench: Bench) -> None:
    run = bench.create(state="starting", per_device_train_batch_size=56, gradient_accumulation_steps=64)
    worker = bench.worker(run)
    wait_for(lambda: bench.state(run) == "running")
    os.kill(worker.pid, signal.SIGINT)
    while not says(run, '"stopping"'):
        assert worker.poll() is None
    os.kill(worker.pid, signal.SIGINT)
    assert worker.wait(PATIENCE) == 3
    bench.page_shows(run, "stopped", "second stop")
