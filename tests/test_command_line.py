"""Bad input on the command line: exit code 2 and clear sentences, all of them, before anything is trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trainer import demo
from trainer.__main__ import main
from trainer.config import default_config
from trainer.scenarios import scenario

Refused = tuple[dict[str, Any], str, list[str]]
CASES: dict[str, Refused] = {
    "an unknown folder": ({"model": {"name": "nope"}}, "", ["no model folder “nope”"]),
    "a folder without weights": ({"model": {"name": "empty"}}, "", ["has no weights", "has no tokenizer"]),
    "an unknown module": ({"modules": [{"name": "q_projj"}]}, "", ["No tick matches a module"]),
    "a new token that is there": (
        {"model": {"new_tokens": ["<|end|>", "<|pirate|>"]}}, "",
        ["model.new_tokens: The tokenizer has <|end|> already. Take it out."],
    ),
    "no tick": ({"modules": []}, "", ["Nothing is ticked"]),
    "values out of bounds, and ticks that cannot be": (
        {
            "adapter": {"r": 0},
            "model": {"new_tokens": ["<|a|>", "<|a|>"]},
            "modules": [
                {"name": "o_proj", "treatment": "lorra"}, {"name": "q_proj", "r": -1}, {"name": "qkv_proj"},
                {"name": "q_proj"}, {"name": "down_proj", "layers": "0-9"},
            ],
        }, "",
        [
            "adapter.r: 0", "model.new_tokens[1]", "modules[0].treatment", "modules[1].r",
            "modules[3]: q_proj is ticked",
            "modules[1]: q_proj is a part of qkv_proj", "modules[4]: down_proj, layers: There is no layer 9",
        ],
    ),
    "values out of bounds": (
        {"adapter": {"r": 0}, "training": {"learning_rate": -1, "max_length": 1}}, "",
        ["adapter.r: 0", "training.learning_rate: -1", "training.max_length: 1"],
    ),
    "empty data": ({}, "empty.jsonl", ["The data is empty"]),
    "malformed data": ({}, "broken.jsonl", ["line 1", "line 2"]),
    "no data": ({}, "none.jsonl", ["none.jsonl cannot be read"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_ends_with_2_and_says_all_that_is_wrong(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, data, sentences = CASES[name]
    monkeypatch.setenv("LAB_DEVICE_LOCKS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "empty").mkdir(parents=True)
    shutil.copy(demo.MODEL_DIR / "config.json", tmp_path / "models" / "empty")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{bad\n')
    config = replace(default_config(), modules=scenario("5").modules).to_json()
    for part, values in change.items():
        config[part] = values if isinstance(values, list) else config[part] | values
    (tmp_path / "run.json").write_text(json.dumps(config))
    assert main(["train", "run.json", *(["--data-file", data] if data else [])]) == 2
    told = "".join(capfd.readouterr())
    assert "Traceback" not in told
    assert all(sentence in told for sentence in sentences), told
