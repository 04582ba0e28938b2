"""What the heartbeat says while a real run loads, evaluates and saves, and a stop in the middle of an evaluation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import small_config
from trainer.common import heartbeat
from trainer.common.heartbeat import Activity
from trainer.training import checkpoints, loop


def test_every_phase_is_shown_and_a_stop_ends_an_evaluation(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=8, eval_steps=2)
    folder = tmp_path / "run"
    folder.mkdir()
    seen: list[Activity] = []
    events: list[str] = []
    original = heartbeat._Heartbeat._write

    def write(current: Any) -> None:
        original(current)
        seen.append(heartbeat.activity(folder, os.getpid()))

    def sink(type: str, **values: Any) -> None:
        events.append(f"{type} {values.get('step', '')}".strip())

    monkeypatch.setattr(heartbeat, "INTERVAL", 0.0)
    monkeypatch.setattr(heartbeat._Heartbeat, "_write", write)
    heartbeat.start(folder)
    try:
        paths = loop.RunPaths(folder, models_dir, tmp_path / "data")
        # from after the second step on, whose evaluation comes next
        outcome = loop.train(config, paths, sink, lambda: "metrics 2" in events)
    finally:
        heartbeat.end()
    tasks = list(dict.fromkeys(activity.task for activity in seen))
    expected = ["Reading the model's configuration", "Reading the data", "Checking the data", "Tokenizing the data"]
    expected += ["Loading the weights", "Attaching the adapter", "Testing attention, packing and loss on the model"]
    assert [task for task in tasks if task] == [*expected, "Evaluating", "Saving"]
    shares = [activity.share for activity in seen if activity.task == "Loading the weights" and activity.share]
    assert len(shares) > 10 and shares == sorted(shares) and 0.9 < shares[-1] < 1
    assert Activity("Evaluating", 1.0) in seen
    assert not outcome.finished
    assert "eval 0" in events and "eval 2" not in events and "metrics 3" not in events
    assert checkpoints.newest_complete(folder / "checkpoints") == folder / "checkpoints" / "checkpoint-2"
