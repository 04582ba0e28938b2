"""`suggest` as a person uses it: in a real process, with a result that trains, and with Ctrl+C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import PATIENCE, small_config, wait_for
from trainer.cli.main import main
from trainer.common.devices import lock_path
from trainer.common.file_locks import acquire
from trainer.config import validation

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, models_dir: Path) -> Path:
    config = small_config(tmp_path / "runs" / "data", tmp_path / "rows.jsonl", steps=4)
    (tmp_path / "run.json").write_text(json.dumps(config.to_json()))
    (tmp_path / "models").symlink_to(models_dir)
    return tmp_path


def started(folder: Path, *options: str) -> subprocess.Popen[str]:
    places = ["--runs-dir", str(folder / "runs"), "--models-dir", str(folder / "models")]
    command = [sys.executable, "-m", "trainer", *places, "suggest", str(folder / "run.json"), *options]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


def state_of(folder: Path) -> dict[str, Any]:
    found = list((folder / "runs" / "races").glob("*/race.json"))
    return json.loads(found[0].read_text()) if found else {}


def test_it_says_what_to_train_and_writes_a_configuration_that_plans(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = started(folder, "--minutes", "1", "--json", "-o", str(folder / "better.json"))
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert found["state"] == "finished" and found["answer"]["sentence"] and found["rules"]
    assert 0 <= found["seconds_left"] <= 60
    raced = [arm for arm in found["arms"] if arm["place"]]
    assert [arm["place"] for arm in raced] == list(range(1, len(raced) + 1)) and len(raced) >= 2
    assert all(arm["step_seconds"] > 0 and arm["trainable"] > 0 for arm in raced)
    assert raced[0]["seeds"] > 1 or not found["answer"]["shown"]
    own = next(arm for arm in found["arms"] if arm["key"] == "yours")
    assert own["place"] or own["note"]
    better = validation.load(folder / "better.json")
    assert better.to_json() == found["answer"]["config"]
    before = validation.load(folder / "run.json")
    assert (better.data, better.model) == (before.data, before.model)
    assert better.training.max_steps == before.training.max_steps
    places = ["--runs-dir", str(folder / "runs"), "--models-dir", str(folder / "models")]
    assert main([*places, "plan", str(folder / "better.json")]) == 0
    assert found == state_of(folder) | {"rules": found["rules"]}
    capsys.readouterr()


def test_ctrl_c_ends_a_race_without_ticks_with_the_answer_so_far(folder: Path) -> None:
    config = replace(validation.load(folder / "run.json"), modules=())
    (folder / "run.json").write_text(json.dumps(config.to_json()))
    process = started(folder, "--minutes", "1", "--set", "training.max_steps=4000")
    wait_for(lambda: state_of(folder).get("answer"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, err
    assert "All linear" in out and "Your ticks" not in out and "Rung 1 of" in out
    assert "Learning rate" in out and "Traceback" not in out + err
    assert state_of(folder)["state"] == "stopped"


def test_it_waits_for_the_device_and_ctrl_c_ends_that_too(folder: Path) -> None:
    held = acquire(lock_path("cpu"), shared=True)
    assert held is not None
    process = started(folder)
    wait_for(lambda: "Waiting for cpu" in state_of(folder).get("message", ""))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    held.close()
    assert process.returncode == 3 and "Stopped before anything was trained." in out, err


@pytest.mark.parametrize(
    ("options", "sentences"),
    [
        (["--minutes", "0"], ["A race of 0 minutes is not possible.", "between 0.1 and 1440"]),
        (["--set", "model.name=nope"], ["There is no model folder", "nope"]),
        (["--set", "data.eval_fraction=0"], ["only 0 are held out", "Raise data.eval_fraction"]),
        (["--set", "adapter.r=0"], ["adapter.r: 0"]),
    ],
)
def test_what_cannot_be_raced_is_refused_in_a_sentence(
    folder: Path, options: list[str], sentences: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    places = ["--runs-dir", str(folder / "runs"), "--models-dir", str(folder / "models")]
    assert main([*places, "suggest", str(folder / "run.json"), *options]) == 2
    err = capfd.readouterr().err
    assert all(sentence in err for sentence in sentences), err
    assert "Traceback" not in err
