"""Runs on few rows learn something; a run that could not says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.support import tiny
from tests.support.lab import small_config
from trainer.cli.main import main
from trainer.config.schema import Tick
from trainer.experiments.comparison import compare
from trainer.runs.store import RunStore
from ui.views import run_progress


@pytest.fixture
def lab(tmp_path: Path, models_dir: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs the command line in folders of its own; what it printed, errors last."""

    def run(*arguments: str) -> str:
        assert main(["--runs-dir", str(tmp_path / "runs"), "--models-dir", str(models_dir), *arguments]) == 0
        printed = capfd.readouterr()
        return printed.out + printed.err

    return run


def test_fifty_rows_with_the_defaults_move_the_adapter_and_are_warned_of(lab: Any, tmp_path: Path) -> None:
    job = json.loads(lab("config", "phi3").partition("\nThe study")[0])
    job["model"]["quantization"], job["training"]["max_length"] = "none", 64
    (tmp_path / "run.json").write_text(json.dumps(job))
    file = tiny.save_rows(tmp_path / "rows.jsonl", 50)
    printed = lab("train", str(tmp_path / "run.json"), "--data-file", str(file))
    assert "1 step with a batch of 64" in printed
    assert "step      1" in printed and "lr 1e-4" in printed, "one step at the full rate"
    (run,) = RunStore(tmp_path / "runs").all()
    assert not run.history.unchanged
    moved = load_file(run.adapter / "adapter_model.safetensors")
    assert all(bool(value.any()) for name, value in moved.items() if "lora_B" in name)
    assert any("too few" in line for line in run.history.log)

    options = next(line.split() for line in printed.splitlines() if line.startswith("    --set"))
    (tmp_path / "run.json").write_text(json.dumps(run.config.to_json() if run.config else {}))
    plan = json.loads(lab("plan", str(tmp_path / "run.json"), "--json"))
    (warning,) = plan["warnings"]
    assert plan["steps"] == 1
    assert warning["changes"]["training.gradient_accumulation_steps"] == 1
    better = json.loads(lab("plan", str(tmp_path / "run.json"), "--json", *options))
    assert (better["steps"], better["warnings"]) == (36, [])


def test_a_run_that_changed_nothing_says_so(lab: Any, tmp_path: Path) -> None:
    config = small_config(tmp_path / "runs" / "data", tmp_path / "rows.jsonl", steps=2)
    config = replace(config, modules=(Tick("lm_head", "full", lr=1e-30),))
    (tmp_path / "run.json").write_text(json.dumps(config.to_json()))
    printed = lab("train", str(tmp_path / "run.json"))
    store = RunStore(tmp_path / "runs")
    (run,) = store.all()
    reason = run.history.message
    assert "did not change" in reason and "learning rate" in reason
    assert f"finished {reason}" in printed
    assert (run.history.state, run.history.unchanged) == ("finished", True)
    assert reason in lab("runs", "--json")
    assert f'<span class="message unchanged">{reason}</span>' in run_progress.status(run, "finished")
    assert any("unchanged" in warning for warning in compare(store, [run.id]).warnings)
