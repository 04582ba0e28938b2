"""What the app learns of a model through its analysis: kept as long as the model is the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import gradio as gr
import psutil
import pytest

from tests.support.lab import open_lab, wait_for
from trainer.common.errors import UserError
from trainer.config.schema import ModelConfig
from trainer.service import Lab, Settings, models
from ui.tabs.train import TrainTab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return open_lab(tmp_path, tmp_path / "models")


def test_a_folder_with_another_model_in_it_is_read_again(lab: Lab, models_dir: Path, tmp_path: Path) -> None:
    folder, model = tmp_path / "models" / "mine", ModelConfig(name="mine")
    shutil.copytree(models_dir / "phi3", folder)
    first = models.module_map(lab, model)
    assert models.module_map(lab, model) is first is models.known(lab, model), "an unchanged model is read once"
    assert "<|pirate|>" not in models.vocabulary(lab, model)
    shutil.rmtree(folder)
    shutil.copytree(models_dir / "gpt2", folder)
    written = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(written.replace("<|system|>", "<|pirate|>"), encoding="utf-8")
    assert models.known(lab, model) is None
    assert models.module_map(lab, model).model_type == "gpt2"
    assert "<|pirate|>" in models.vocabulary(lab, model)


def test_new_tokens_without_a_tokenizer_are_a_problem_of_the_form(lab: Lab, models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir / "phi3", tmp_path / "models" / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
    models.module_map(lab, ModelConfig(name="mute"))
    with gr.Blocks() as page:
        tab = TrainTab(lab, page)
    values = {path: component.value for path, component in tab.form.components.items()}
    values |= {"model.name": "mute", "model.new_tokens": "<|pirate|>"}
    _, summary, _ = tab.plan(cast("gr.Request", SimpleNamespace(session_hash="a page")), *values.values(), "")
    assert "tokenizer of mute" in summary


def test_a_closed_lab_leaves_no_process_and_starts_none(tmp_path: Path) -> None:
    """Each would keep half a gigabyte: the two analysis processes, and the spare worker."""
    before = set(psutil.Process().children())
    lab = Lab(Settings(runs_dir=tmp_path / "runs"))
    lab.start()
    lab.prepare_analysis("data")
    wait_for(lambda: len(set(psutil.Process().children()) - before) == 3)
    lab.close()
    with pytest.raises(UserError, match="shutting down"):
        models.vocabulary(lab, ModelConfig(name="demo"))
    assert set(psutil.Process().children()) <= before
