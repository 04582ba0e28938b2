"""A worker that hangs: shown as silent, killed on request only, and resumed as if nothing had happened."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.bench import Bench, trains
from tests.support.lab import wait_for
from trainer.cli.main import main
from trainer.common import file_locks, heartbeat
from trainer.common.errors import UserError
from trainer.runs import lifecycle
from trainer.runs.run import Run

LIMIT = 1.5
"""Seconds of silence that are normal in these tests."""


def impatient() -> None:
    heartbeat.LEAST_LIMIT = LIMIT


def freeze(bench: Bench, run: Run) -> int:
    """SIGSTOP the run's worker in a training step whose pace is known; returns its process id."""
    wait_for(lambda: _pace_is_known(run))
    process = bench.worker_of(run)
    os.kill(process, signal.SIGSTOP)
    return process


@pytest.mark.full
def test_a_hung_worker_is_shown_and_killed_and_its_run_resumes_with_the_same_losses(bench: Bench) -> None:
    run, alike = (bench.create(steps=120, save_steps=20, eval_steps=60, state="starting") for _ in range(2))
    assert bench.worker(alike).wait() == 0
    slow = bench.worker(run, impatient)
    process = freeze(bench, run)
    with pytest.raises(UserError, match="shows signs of life"):
        lifecycle.kill_hung(bench.run(run))
    bench.page_shows(run, "running")
    shown = wait_for(lambda: _shown(bench, run, "No sign of life for"))
    assert "the worker may be hung. Kill it" in shown
    assert bench.run(run).summary()["silent"] >= 1
    os.kill(process, signal.SIGCONT)  # a false alarm
    wait_for(trains(bench.run(run)))
    assert bench.run(run).history.silence() is None
    os.kill(process, signal.SIGSTOP)
    wait_for(lambda: bench.run(run).history.silence())
    assert lifecycle.kill_hung(bench.run(run)) == "Killed."
    assert slow.wait() == -signal.SIGKILL
    bench.page_shows(run, "failed", "No sign of life for", "in a training step", "Resume")
    assert bench.run(run).history.cause == "hung"
    lifecycle.resume_run(bench.run(run))
    assert bench.worker(run).wait() == 0
    bench.page_shows(run, "finished")
    losses = [bench.run(one).history.train.curve("loss")[1].tolist() for one in (run, alike)]
    assert losses[0] == losses[1]
    assert not (run.folder / heartbeat.FILE).exists()


def _pace_is_known(run: Run) -> bool:
    path = run.folder / heartbeat.FILE
    return path.exists() and f'"phase": "training", "limit": {LIMIT}' in path.read_text()


def _shown(bench: Bench, run: Run, words: str) -> str:
    status, buttons = bench.live(run)
    return status if words in status and "kill" in buttons else ""


def test_the_command_line_names_a_hung_worker_and_kills_it(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    run = bench.create(state="starting")
    bench.worker(run, impatient)
    freeze(bench, run)
    words = ["--runs-dir", str(run.folder.parent)]
    wait_for(lambda: bench.run(run).history.silence())
    for command, says in (
        (["runs"], "No sign of life for"),
        (["stop", run.id], "may be hung. Stop again to kill it."),
        (["stop", run.id], "Killed."),
    ):
        assert main([*words, *command]) == 0
        assert says in capsys.readouterr().out
    assert (bench.state(run), bench.run(run).history.cause) == ("failed", "hung")


def test_neither_a_clock_nor_a_night_of_sleep_is_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monotonic clock stands still in suspend; what jumps are the clock of the day and the files' times."""
    lock = file_locks.acquire(tmp_path / "lock")
    assert lock is not None
    heartbeat.start(tmp_path)
    try:
        monkeypatch.setattr(time, "time", lambda: 4e9)
        os.utime(tmp_path / heartbeat.FILE, (0, 0))
        assert heartbeat.silence(tmp_path, os.getpid()) is None
        real = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: real + heartbeat.UNMEASURED_LIMIT + 1)
        assert heartbeat.silence(tmp_path, os.getpid()) is not None
        assert heartbeat.silence(tmp_path, os.getpid() + 1) is None, "of another process, which was killed before"
    finally:
        heartbeat.end()
        lock.close()
    assert heartbeat.silence(tmp_path, os.getpid()) is None
