"""Whole runs in real processes: queue, train, stop, die, export."""

from __future__ import annotations

import os
import signal
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.support import tiny
from tests.support.lab import open_lab, small_config, wait_for
from trainer.common import file_locks
from trainer.common.errors import InvalidConfig, UserError
from trainer.config.schema import RunConfig
from trainer.runs import event_log
from trainer.runs.run import Run
from trainer.service import data, exports, planning, runs
from trainer.service.lab import Lab


@pytest.fixture
def lab(tmp_path: Path, models_dir: Path) -> Iterator[Lab]:
    lab = open_lab(tmp_path, models_dir)
    lab.start()
    yield lab
    lab.close()
    for run in lab.store.all():
        process = file_locks.holder(run.folder / "lock")
        if process:
            os.kill(process, signal.SIGKILL)


def train(lab: Lab, config: RunConfig) -> Run:
    return runs.start(lab, config, planning.plan(lab, config))


def state_of(lab: Lab, run_id: str) -> str:
    return lab.store.get(run_id).history.state


def test_a_run_from_the_queue_to_an_adapter_that_works_everywhere(lab: Lab, tmp_path: Path, models_dir: Path) -> None:
    config = small_config(lab.settings.data_dir, tmp_path / "rows.jsonl")
    run = train(lab, config)
    second = train(lab, config)
    wait_for(lambda: state_of(lab, run.id) == "running")
    assert state_of(lab, second.id) == "queued", "one run per device at a time"
    assert "queue" in runs.stop(lab, second.id)
    wait_for(lambda: state_of(lab, run.id) == "finished")
    history = lab.store.get(run.id).history
    assert history.train.curve("loss")[0].tolist() == list(range(1, 9))
    steps, losses = history.evals.curve("eval_loss")
    assert steps.tolist() == [0, 4, 8]
    assert losses[-1] < losses[0]
    summary = lab.store.get(run.id).summary()
    assert summary["memory_predicted"] == planning.plan(lab, config).needed
    assert 0 < summary["memory_measured"] < 2**30, "what training took, without the libraries"
    _check_export(lab, run.id, tmp_path, models_dir)


def _check_export(lab: Lab, run_id: str, tmp_path: Path, models_dir: Path) -> None:
    with zipfile.ZipFile(exports.adapter(lab, run_id)) as archive:
        assert sorted(archive.namelist()) == [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "run_config.json",
        ]
        archive.extractall(tmp_path / "adapter")
        text = archive.read("adapter_config.json") + archive.read("run_config.json") + archive.read("README.md")
    assert str(tmp_path).encode() not in text
    assert str(models_dir).encode() not in text
    saved = lab.store.get(run_id)
    size = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert size == pytest.approx(saved.plan()["adapter_bytes"], rel=0.01)
    ids = torch.arange(3, 40).unsqueeze(0)
    found = []
    for folder in (tmp_path / "adapter", saved.adapter):
        base = AutoModelForCausalLM.from_pretrained(models_dir / "phi3")
        plain = base(input_ids=ids).logits
        found.append(PeftModel.from_pretrained(base, folder)(input_ids=ids).logits)
        assert not torch.equal(plain, found[-1])
    assert torch.equal(found[0], found[1])


def test_stop_saves_what_is_there_and_resume_goes_on(lab: Lab, tmp_path: Path) -> None:
    run = train(lab, small_config(lab.settings.data_dir, tmp_path / "rows.jsonl", steps=100_000))
    wait_for(lambda: lab.store.get(run.id).history.step >= 3)
    with pytest.raises(UserError, match="still running"):
        lab.store.delete(run.id)
    runs.stop(lab, run.id)
    wait_for(lambda: state_of(lab, run.id) == "stopped")
    assert exports.adapter(lab, run.id).is_file()
    step = lab.store.get(run.id).history.step
    runs.resume(lab, run.id)
    wait_for(lambda: lab.store.get(run.id).history.step > step + 2)
    runs.stop(lab, run.id)
    wait_for(lambda: state_of(lab, run.id) == "stopped")
    steps = [event["step"] for event in event_log.read(run.folder / "events.jsonl")[0] if event["type"] == "metrics"]
    assert steps == list(range(1, steps[-1] + 1)), "it went on with the very next step"
    lab.store.delete(run.id)
    assert lab.store.ids() == []


def test_what_cannot_train_does_not_become_a_run(lab: Lab, tmp_path: Path) -> None:
    config = small_config(lab.settings.data_dir, tmp_path / "rows.jsonl", learning_rate=0.0, max_length=4)
    with pytest.raises(InvalidConfig) as caught:
        train(lab, config)
    assert {issue.field for issue in caught.value.issues} == {"training.learning_rate", "training.max_length"}
    assert lab.store.ids() == []


def test_data_that_cannot_be_used_do_not_become_a_run_and_name_their_lines(lab: Lab, tmp_path: Path) -> None:
    rows = tiny.save_rows(tmp_path / "rows.jsonl", 3)
    config = small_config(lab.settings.data_dir, rows)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(rows.read_text() + '{"instruction": "x"}\n{"instruction": "x", "response": ""}\n{oops\n')
    with pytest.raises(InvalidConfig) as caught:
        train(lab, replace(config, data=replace(config.data, path=data.add(lab, bad))))
    (issue,) = caught.value.issues
    for line in (65, 66, 67):
        assert f"line {line}:" in issue.problem
    assert lab.store.ids() == []
