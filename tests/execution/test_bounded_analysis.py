"""The analysis processes under hostile input: bounded in time, memory and callers, and never outliving the app."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.under_load import frozen, measure
from tests.support.lab import wait_for
from trainer.common.errors import UserError
from trainer.common.progress import Canceled, ProgressMonitor
from trainer.execution import analysis_process
from trainer.execution.analysis_process import PLACES, AnalysisProcess

SMALL = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 4, "vocab_size": 99}
SPENDING = {"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 99, "state_size": 10**6}
"""Passes the bounds on sizes, but the scan of its state takes tens of gigabytes."""


class Bench:
    """An analysis process and a folder of models."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.analysis = folder, AnalysisProcess(folder, folder / "data", "models")

    def model(self, name: str, config: dict[str, Any]) -> dict[str, str]:
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "config.json").write_text(json.dumps(config))
        return {"name": name, "revision": "main"}

    def read(self, model: dict[str, str], monitor: ProgressMonitor | None = None) -> Any:
        return self.analysis.call("modules", monitor, model=model)["parameters"]

    def process(self) -> psutil.Process:
        """The process, once it has read a model."""
        self.read(self.model("warm-up", SMALL))
        process = self.analysis._process
        assert process is not None
        return psutil.Process(process._process.pid)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("models"))
    yield bench
    bench.analysis.close()


def test_a_model_that_takes_too_much_memory_fails_once_and_is_remembered(bench: Bench) -> None:
    model, process = bench.model("spending", SPENDING), bench.process()
    with pytest.raises(UserError, match=r"Reading the modules of spending needs more memory .*config\.json"):
        bench.read(model)
    assert not process.is_running(), "what it took is free again"
    began = time.monotonic()
    with pytest.raises(UserError, match="needs more memory"):
        bench.read(model)
    assert time.monotonic() - began < 1
    assert bench.read(bench.model("spending", SMALL)), "a changed config.json is tried again"


def test_callers_are_bounded_share_answers_and_are_dropped_when_gone(bench: Bench) -> None:
    process, models = bench.process(), [bench.model(f"waiting-{number}", SMALL) for number in range(PLACES)]
    gone = threading.Event()
    process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(PLACES) as pool:
        alike = [pool.submit(bench.read, models[0]) for _ in range(3)]
        left = pool.submit(bench.read, models[1], ProgressMonitor(gone=gone.is_set))
        others = [pool.submit(bench.read, model) for model in models[4:]]
        wait_for(lambda: bench.analysis._line._free == 0)
        with pytest.raises(UserError, match=f"busy: {PLACES} requests .* Try again in a moment"):
            bench.read(models[2])
        gone.set()
        with pytest.raises(Canceled):
            left.result(10)
        assert not any(call.done() for call in (*alike, *others))
        process.send_signal(signal.SIGCONT)
        assert len({call.result(60) for call in (*alike, *others)}) == 1


def test_a_model_that_hangs_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    process, model = bench.process(), bench.model("hanging", SMALL)
    monkeypatch.setattr(analysis_process, "PATIENCE", {"modules": 1.0})
    process.send_signal(signal.SIGSTOP)
    for _ in range(2):  # the second time, the process is not asked
        with pytest.raises(UserError, match="Reading the modules of hanging took too long: no sign of life for"):
            bench.read(model)
        assert not process.is_running()
    monkeypatch.undo()
    assert bench.read(bench.model("another", SMALL))


def test_a_canceled_call_that_does_not_react_ends_all_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    process, model, monitor = bench.process(), bench.model("canceled", SMALL), ProgressMonitor()
    monkeypatch.setattr(analysis_process, "CANCEL_PATIENCE", 0.5)
    process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(bench.read, model, monitor)
        time.sleep(0.3)
        monitor.cancel()
        with pytest.raises(Canceled):
            call.result(10)
    assert not process.is_running()


@pytest.mark.full
def test_200_hanging_calls_do_not_slow_down_the_app_and_end_with_it(tmp_path: Path) -> None:
    with frozen(tmp_path, 200) as (app, analysis):
        with ThreadPoolExecutor(1) as pool:  # a test before may have left an event loop in this thread
            found = pool.submit(asyncio.run, measure(app, 200, 3.0)).result()
        assert found.ends == {"waiting": PLACES, "refused: busy": 200 - PLACES}
        assert {name: max(seen) for name, seen in found.waiting.items() if max(seen) > 1.0} == {}
        app.process.kill()
        app.process.wait()
        wait_for(lambda: not analysis.is_running(), 10)
