"""An adapter cut down: measured as it is exported, and plain PEFT loads what is exported."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.support.lab import open_lab, plan_of, small_config
from trainer.common.errors import UserError
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick
from trainer.runs.run import Run
from trainer.service import Lab, attribution
from trainer.training import loop, low_rank
from trainer.training.attribution import cut_down
from trainer.training.attribution.trained_run import open_run

LORA = AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.0)


def trained(lab: Lab, config: RunConfig) -> tuple[Run, loop.RunPaths]:
    run = lab.store.create(config, plan_of(config, lab.settings.models_dir), "starting")
    paths = loop.RunPaths(run.folder, lab.settings.models_dir, lab.settings.data_dir)
    loop.train(config, paths, lambda *_, **__: None, lambda: False)
    return run, paths


def losses(model: Any, examples: Sequence[dict[str, np.ndarray]]) -> list[float]:
    found = []
    for example in examples:
        ids = torch.from_numpy(np.asarray(example["input_ids"]))
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1]
        each = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        found.append(float(each[torch.from_numpy(np.asarray(example["counts"])[1:])].sum()))
    return found


@pytest.mark.parametrize(
    ("kind", "ticks", "adapter"),
    [
        ("phi3", ["q_proj", "v_proj", "down_proj"], LORA),
        ("llama", ["embed_tokens", "k_proj", "gate_proj"], replace(LORA, use_rslora=True)),
        ("moe", ["q_proj", "gate_up_proj", "experts.down_proj"], LORA),
        ("gpt2", ["c_attn", "mlp.c_proj"], replace(LORA, bias="lora_only")),
    ],
)
def test_plain_peft_loads_what_was_measured(
    kind: str, ticks: list[str], adapter: AdapterConfig, tmp_path: Path, models_dir: Path
) -> None:
    lab = open_lab(tmp_path, models_dir)
    config = small_config(lab.settings.data_dir, tmp_path / "rows.jsonl", steps=12)
    model = ModelConfig(name=kind, quantization="none")
    config = replace(config, model=model, adapter=adapter, modules=tuple(map(Tick, ticks)))
    run, paths = trained(lab, config)
    opened = open_run(config, paths, lambda *_: None)
    found = cut_down.measure(opened, run.adapter, 12, lambda *_: None)
    lab.close()
    level = found.levels[2]
    assert level.kept == 0.9
    assert sum(level.ranks.values()) < sum(found.ranks.values())
    assert all(rank <= found.ranks[name] for name, rank in level.ranks.items())
    archive = attribution.export_cut(lab, run.id, 0.9, tmp_path)
    with zipfile.ZipFile(archive) as files:
        files.extractall(tmp_path / "cut")
        assert "It was cut down after training: 90 %" in files.read("README.md").decode()
    assert sum(value.numel() for value in load_file(tmp_path / "cut/adapter_model.safetensors").values()) == (
        level.parameters
    )
    base = AutoModelForCausalLM.from_pretrained(models_dir / kind, dtype=torch.float32).eval()
    plain = PeftModel.from_pretrained(base, str(tmp_path / "cut")).eval()
    rows = [opened.rows.examples[place] for place in range(len(found.tokens))]
    assert losses(plain, rows) == pytest.approx(level.losses.tolist(), rel=1e-4)
    assert level.losses.tolist() != pytest.approx(found.after.tolist(), rel=1e-6)


def test_one_threshold_keeps_what_matters_in_the_module_that_has_it() -> None:
    generator = np.random.default_rng(0)
    strong, weak = ([generator.normal(size=shape).astype(np.float32) for shape in ((8, 2), (2, 6))] for _ in range(2))
    weights = {
        f"{low_rank.PREFIX}{name}.lora_{factor}.weight": value * size
        for name, pair, size in (("strong", strong, 1.0), ("weak", weak, 1e-3))
        for factor, value in zip("BA", pair, strict=True)
    }
    settings = {"r": 2, "lora_alpha": 6, "target_modules": ["strong", "weak"], "bias": "none"}
    made, changed = low_rank.cut(weights, settings, 0.99)
    assert changed["target_modules"] == ["strong"]
    assert (changed["rank_pattern"], changed["alpha_pattern"]) == ({"strong": 2}, {"strong": 2})
    kept = made[f"{low_rank.PREFIX}strong.lora_B.weight"] @ made[f"{low_rank.PREFIX}strong.lora_A.weight"]
    assert np.allclose(kept, 3 * strong[0] @ strong[1], atol=1e-4)
    assert not any("weak" in name for name in made)


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"use_dora": True}, "DoRA adapters cannot be cut"), ({"target_modules": []}, "no LoRA on a linear")],
)
def test_what_cannot_be_cut_says_so(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        low_rank.updates({}, {"r": 2, "lora_alpha": 2, "target_modules": []} | settings)
