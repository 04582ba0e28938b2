"""Loss on general text before and after: as one computes it by hand, whatever the data, and it changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.lab import open_lab, small_config
from trainer import demo
from trainer.common.errors import InvalidConfig
from trainer.config.schema import RunConfig
from trainer.data.readers.uploads import keep_data
from trainer.runs import row_losses
from trainer.service import data
from trainer.training import loop

Train = Callable[[RunConfig], Path]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=6)


@pytest.fixture
def train(tmp_path: Path, models_dir: Path) -> Train:
    def run(config: RunConfig) -> Path:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        loop.train(config, loop.RunPaths(folder, models_dir, tmp_path / "data"), lambda *_, **__: None, lambda: False)
        return folder

    return run


def by_hand(model: Any, tokenizer: Any, texts: list[str], most: int) -> list[float]:
    losses = []
    for text in texts:
        ids = torch.tensor(tokenizer(text)["input_ids"][:most])[None]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        losses.append(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")))
    return losses


def test_it_is_the_loss_of_the_base_model_and_of_the_saved_adapter(
    config: RunConfig, train: Train, models_dir: Path
) -> None:
    folder = train(config)
    found = row_losses.read(folder)[row_losses.GENERAL]
    texts = [json.loads(line)["text"] for line in demo.GENERAL_FILE.read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(models_dir / "phi3")
    base = AutoModelForCausalLM.from_pretrained(models_dir / "phi3").eval()
    assert found.before is not None and found.after is not None and found.rise is not None
    assert found.before.tolist() == pytest.approx(
        by_hand(base, tokenizer, texts, config.training.max_length), rel=1e-5
    )
    trained = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
    assert found.after.tolist() == pytest.approx(
        by_hand(trained, tokenizer, texts, config.training.max_length), rel=1e-4
    )
    assert found.rise != 0 and f"{found.rise:+.4f}" in found.sentence


def test_an_own_file_is_measured_and_changes_nothing_that_is_learned(
    config: RunConfig, train: Train, tmp_path: Path
) -> None:
    general = tmp_path / "general.jsonl"
    general.write_text("".join(json.dumps({"text": f"It rains on hill {number}."}) + "\n" for number in range(300)))
    own = replace(config, data=replace(config.data, general_text=keep_data(general, tmp_path / "data")))
    plain, changed = train(config), train(own)
    assert len(row_losses.read(changed)[row_losses.GENERAL].tokens) == 200
    same = [row_losses.read(folder)[row_losses.HELD_OUT].after for folder in (plain, changed)]
    assert same[0] is not None and same[1] is not None and same[0].tolist() == same[1].tolist()


def test_a_missing_file_is_named_before_anything_starts(config: RunConfig, tmp_path: Path, models_dir: Path) -> None:
    lab = open_lab(tmp_path, models_dir)
    config = small_config(lab.settings.data_dir, tmp_path / "rows.jsonl")
    wrong = replace(config, data=replace(config.data, general_text="gone.jsonl"))
    with pytest.raises(InvalidConfig) as caught:
        data.check(lab, wrong)
    lab.close()
    assert [issue.field for issue in caught.value.issues] == ["data.general_text"]
    assert "gone.jsonl" in str(caught.value)
