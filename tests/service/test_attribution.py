"""Measuring a run from the command line and from the app: real processes, real short trainings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.lab import open_lab, plan_of, small_config, wait_for
from trainer.cli.main import main
from trainer.common.errors import UserError
from trainer.runs.run import Run
from trainer.service import Lab, attribution, runs
from trainer.service.attribution import ATTRIBUTION, CUT_DOWN


def finished(lab: Lab, tmp_path: Path) -> Run:
    """A run that a worker has trained, which ended with its device's lock."""
    config = small_config(lab.settings.data_dir, tmp_path / "rows.jsonl")
    run = runs.start(lab, config, plan_of(config, lab.settings.models_dir))
    lab.scheduler.start()
    wait_for(lambda: lab.store.get(run.id).state in runs.ENDED)
    assert lab.store.get(run.id).state == "finished", lab.store.get(run.id).message
    return lab.store.get(run.id)


def test_the_app_measures_in_a_process_of_its_own(tmp_path: Path, models_dir: Path) -> None:
    lab = open_lab(tmp_path, models_dir)
    try:
        run = finished(lab, tmp_path)
        assert attribution.read(lab, run.id) is None
        assert (attribution.estimate(lab, run.id) or 0) > 0
        attribution.start(lab, ATTRIBUTION, run.id)
        with pytest.raises(UserError, match="is being measured"):
            attribution.start(lab, CUT_DOWN, run.id)
        wait_for(lambda: not attribution.state(lab, run.id).running)
        assert attribution.state(lab, run.id).problem == ""
        found = attribution.read(lab, run.id)
        assert found is not None and found.adds_up and found.step == 8
        rows = attribution.by_kind(found)
        assert {row.name for row in rows} == {"q_proj", "v_proj", "o_proj", "lm_head"}
        assert sum(row.of_gain or 0 for row in rows) == pytest.approx(1, abs=0.01)
        assert sum(row.share for row in attribution.by_layer(found)) == pytest.approx(found.gain, rel=0.01)
        attribution.start(lab, ATTRIBUTION, run.id)
        attribution.stop(lab, run.id)
        wait_for(lambda: not attribution.state(lab, run.id).running)
        assert attribution.state(lab, run.id).problem == ""
    finally:
        lab.close()


def test_the_command_line_measures_and_writes(
    tmp_path: Path, models_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = open_lab(tmp_path, models_dir)
    run = finished(lab, tmp_path)
    lab.close()
    folders = ["--runs-dir", str(tmp_path / "runs"), "--models-dir", str(models_dir)]
    capsys.readouterr()
    assert main([*folders, "attribute", run.id, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["adds_up"] and abs(found["error"]) <= 0.01
    assert sum(part["share"] for part in found["modules"]) == pytest.approx(found["gain"], rel=0.01)
    assert main([*folders, "attribute", run.id]) == 0
    text = capsys.readouterr().out
    assert "Retraining without a module usually costs far less" in text and "o_proj" in text
    assert main([*folders, "cut", run.id]) == 0
    assert "forgetting" in capsys.readouterr().out
    assert main([*folders, "cut", run.id, "--keep", "0.9", "-o", str(tmp_path / "cut.zip")]) == 0
    assert (tmp_path / "cut.zip").stat().st_size > 1000
    assert main([*folders, "cut", run.id, "--keep", "2"]) == 2
    assert "no share of the energy" in capsys.readouterr().err


def test_a_run_that_is_not_done_is_refused(tmp_path: Path, models_dir: Path) -> None:
    lab = open_lab(tmp_path, models_dir)
    config = small_config(lab.settings.data_dir, tmp_path / "rows.jsonl")
    run = lab.store.create(config, plan_of(config, models_dir))
    with pytest.raises(UserError, match="no adapter yet"):
        attribution.start(lab, ATTRIBUTION, run.id)
    lab.close()
