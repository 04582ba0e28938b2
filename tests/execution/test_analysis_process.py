"""What the app learns of a model through its helper: kept as long as the model is the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import gradio as gr
import pytest

from tests.support.lab import open_lab
from trainer.config.schema import ModelConfig
from trainer.execution import analysis_process
from trainer.service.lab import Lab
from ui.tabs.train import TrainTab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab that reads models in this process, too."""
    made = open_lab(tmp_path, tmp_path / "models")
    calls = analysis_process.calls(tmp_path / "models", tmp_path, lambda *_: None)
    made.helper.call = lambda name, watcher=None, **arguments: calls[name](**arguments)  # type: ignore[method-assign]
    return made


def test_a_folder_with_another_model_in_it_is_read_anew(lab: Lab, models_dir: Path, tmp_path: Path) -> None:
    folder, model = tmp_path / "models" / "mine", ModelConfig(name="mine")
    shutil.copytree(models_dir / "phi3", folder)
    first = lab.helper.module_map(model)
    assert lab.helper.module_map(model) is first is lab.helper.known(model), "an unchanged model is read once"
    assert "<|pirate|>" not in lab.helper.vocabulary(model)
    shutil.rmtree(folder)
    shutil.copytree(models_dir / "gpt2", folder)
    written = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(written.replace("<|system|>", "<|pirate|>"), encoding="utf-8")
    assert lab.helper.known(model) is None
    assert lab.helper.module_map(model).model_type == "gpt2"
    assert "<|pirate|>" in lab.helper.vocabulary(model)


def test_new_tokens_without_a_tokenizer_are_a_problem_of_the_form(lab: Lab, models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir / "phi3", tmp_path / "models" / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
    lab.helper.module_map(ModelConfig(name="mute"))
    with gr.Blocks() as page:
        tab = TrainTab(lab, page)
    values = {path: component.value for path, component in tab.form.components.items()}
    values |= {"model.name": "mute", "model.new_tokens": "<|pirate|>"}
    _, summary = tab.plan(*values.values())
    assert "The tokenizer of mute cannot be loaded" in summary
