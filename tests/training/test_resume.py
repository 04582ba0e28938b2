"""Going on after a stop is as if nothing had happened: the same losses, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.support.lab import small_config
from trainer.config.schema import AdapterConfig, Tick
from trainer.runs import samples
from trainer.training import loop
from trainer.training.checkpoints import newest_complete

SELECTIONS = {
    "slices at their own rates, a full head, new rows": (
        Tick("q_proj", lr=3e-3),
        Tick("v_proj"),
        Tick("gate_proj"),
        Tick("lm_head", "full", lr=2e-3),
    ),
    "full alone": (Tick("embed_tokens", "full"), Tick("norm", "full")),
    "LoRA on the head": (Tick("lm_head"), Tick("k_proj")),
}


PLAIN: dict[str, Any] = {}
DORA: dict[str, Any] = {"use_dora": True, "loraplus_lr_ratio": 4.0}
# each selection and each of the settings, but not all of one with all of the other
CASES = [
    *(("slices at their own rates, a full head, new rows", settings) for settings in (PLAIN, DORA)),
    ("full alone", PLAIN),
    ("LoRA on the head", DORA),
    pytest.param("full alone", DORA, marks=pytest.mark.full),
    pytest.param("LoRA on the head", PLAIN, marks=pytest.mark.full),
]


@pytest.mark.parametrize(("selection", "settings"), CASES)
def test_a_resumed_run_equals_an_uninterrupted_one(
    selection: str, settings: dict[str, Any], tmp_path: Path, models_dir: Path
) -> None:
    ticks = SELECTIONS[selection]
    config = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=8, weight_decay=0.1, samples=1)
    config = replace(config, modules=ticks, adapter=AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.1, **settings))
    if len(ticks) == 4:
        config = replace(config, model=replace(config.model, new_tokens=("<|pirate|>",)))
    whole: dict[int, Any] = {}
    parts: dict[int, Any] = {}

    def train(folder: str, found: dict[int, Any], stop_at: int) -> None:
        def sink(type: str, **values: Any) -> None:
            if type == "metrics":
                found[values["step"]] = (values["loss"], values["grad_norm"], values["learning_rate"])

        (tmp_path / folder).mkdir(exist_ok=True)
        paths = loop.RunPaths(tmp_path / folder, models_dir, tmp_path / "data")
        loop.train(config, paths, sink, lambda: len(found) + 1 >= stop_at)  # asked before the step is logged

    train("whole", whole, 99)
    train("parts", parts, 3)
    assert sorted(parts) == [1, 2, 3]
    train("parts", parts, 6)  # not during the evaluation after step 4, which would end it at once
    assert sorted(parts) == [1, 2, 3, 4, 5, 6]
    train("parts", parts, 99)
    assert parts == whole
    answers = [{at.step: at.answers for at in samples.read(tmp_path / name).answers} for name in ("whole", "parts")]
    shared = answers[0].keys() & answers[1].keys()  # a stop leaves out those of its step
    assert {0, 8} <= shared and all(answers[0][step] == answers[1][step] for step in shared)
    left, right = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "parts")
    )
    assert left.keys() == right.keys()
    assert all(left[name].equal(right[name]) for name in left)
    saved = newest_complete(tmp_path / "parts" / "checkpoints")
    assert saved is not None
    assert load_file(saved / "adapter_model.safetensors").keys() == left.keys(), "a checkpoint holds nothing else"
