"""Learning rates of single ticks: in the plan, in the optimizer, and for slices of one fused module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, Phi3Config

from tests.support import exercise, tiny
from tests.support.exercise import TRAINING
from tests.support.lab import small_config
from trainer.common.errors import InvalidConfig
from trainer.config import validation
from trainer.config.differences import describe
from trainer.config.schema import AdapterConfig, RunConfig, Tick, TrainingConfig
from trainer.models.discovery.discover import discover
from trainer.planning.plan import make_plan
from trainer.training import loop
from trainer.training.optimizer import parameter_groups

PLAIN = AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.0)


def rates(trained: exercise.Trained) -> dict[str, float]:
    """The learning rate of everything that trains, by name."""
    names = {id(parameter): name for name, parameter in trained.model.named_parameters()}
    groups = parameter_groups(trained.model, trained.config)
    found = {names[id(weight)]: group["lr"] for group in groups for weight in group["params"]}
    assert found.keys() == {name for name, weight in trained.model.named_parameters() if weight.requires_grad}
    return found


@pytest.mark.parametrize("settings", [{}, {"use_dora": True, "bias": "lora_only", "loraplus_lr_ratio": 4.0}])
def test_every_tick_trains_at_its_own_rate(settings: dict[str, Any]) -> None:
    ticks = [Tick("attn.c_proj", lr=3e-3), Tick("c_fc"), Tick("wpe", "full", lr=7e-4), Tick("ln_f", "full")]
    found = rates(exercise.build(tiny.config("gpt2"), ticks, AdapterConfig(r=4, lora_alpha=8, **settings)))
    ratio = settings.get("loraplus_lr_ratio", 1)
    for name, rate in found.items():
        own = 3e-3 if ".attn.c_proj." in name else 7e-4 if ".wpe." in name else TRAINING.learning_rate
        assert rate == pytest.approx(own * (ratio if "lora_B" in name else 1)), name
    assert any(name.endswith("attn.c_proj.base_layer.bias") for name in found) == bool(settings)


def test_experts_of_one_module_train_at_their_own_rates() -> None:
    ticks = [Tick("experts.gate_up_proj", lr=3e-3), Tick("experts.down_proj", lr=5e-4), Tick("q_proj")]
    trained = exercise.build(tiny.config("moe"), ticks, PLAIN)
    for name, rate in rates(trained).items():
        holder = trained.model.get_submodule(name.partition(".lora_")[0])
        own = {"gate_up_proj": 3e-3, "down_proj": 5e-4}.get(getattr(holder, "parameter_name", ""), 1e-2)
        assert rate == own, name


def test_slices_of_one_module_train_as_separate_modules_would() -> None:
    """A fused Phi-3 with the weights of a Llama ends where the Llama ends, each projection at a rate of its own."""
    sizes = tiny._SIZES | {"tie_word_embeddings": False, "rms_norm_eps": 1e-6}
    ticks = [Tick("q_proj", lr=2e-3), Tick("v_proj"), Tick("gate_proj", lr=5e-4), Tick("up_proj", r=2, lora_alpha=4)]
    apart = exercise.build(LlamaConfig(**sizes), ticks, PLAIN)
    fused = exercise.build(Phi3Config(**sizes, sliding_window=None), ticks, PLAIN)
    _copy(apart.model, fused.model)
    separate, sliced = (exercise.logits(item.model, item.model.config) for item in (apart, fused))
    assert torch.allclose(separate, sliced, atol=1e-6)
    before = exercise.logits(fused.model, fused.model.config)
    for item in (apart, fused):
        exercise.train(item, steps=5)
    one, other = (exercise.logits(item.model, item.model.config) for item in (apart, fused))
    assert (one - before).abs().max() > 0.05
    assert torch.allclose(one, other, atol=2e-5), (one - other).abs().max()


def test_a_run_trains_each_slice_at_its_own_rate(tmp_path: Path, models_dir: Path) -> None:
    """The whole way: q_proj at a rate that moves next to nothing, v_proj beside it at the shared one."""
    config = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=3, lr_scheduler_type="constant")
    config = replace(config, modules=(Tick("q_proj", lr=1e-12), Tick("v_proj")))
    events: list[dict[str, Any]] = []
    paths = loop.RunPaths(tmp_path / "run", models_dir, tmp_path / "data")
    paths.folder.mkdir()
    loop.train(config, paths, lambda type, **values: events.append({"type": type, **values}), lambda: False)
    weights = load_file(paths.folder / "adapter" / "adapter_model.safetensors")
    for name, weight in weights.items():
        if "lora_B" in name:  # 32 rows of q, 16 of k, 16 of v; four columns each of q and v
            assert 0 < weight[:32, :4].abs().max() < 1e-10
            assert weight[48:, 4:].abs().max() > 1e-3
    assert {event["learning_rate"] for event in events if event["type"] == "metrics"} == {1e-2}


def _copy(apart: Any, fused: Any) -> None:
    """Weights and LoRA's start of separate projections into fused ones."""
    base, target = apart.base_model.model, fused.base_model.model
    state = {name.replace(".base_layer", ""): value for name, value in base.state_dict().items()}
    with torch.no_grad():
        for name, weight in target.named_parameters():
            plain = name.replace(".base_layer", "")
            parts = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
            key = next((key for key in parts if key in plain), "")
            names = [plain.replace(key, part) for part in parts[key]] if key else [plain]
            found = [state[item] for item in names if item in state]
            if ".lora_B." not in name:
                weight.copy_(torch.cat(found))


def test_plan_and_comparison_name_own_rates() -> None:
    module_map = discover(tiny.config("llama"), "llama")
    ticks = (Tick("q_proj", r=8, lr=2e-4), Tick("k_proj"), Tick("embed_tokens", "full", lr=5e-5))
    config = RunConfig(modules=ticks)
    rates = [receipt.note.partition("lr ")[2] for receipt in make_plan(config, module_map).receipts]
    assert rates == ["2e-4", "", "5e-5"]
    lora, full = describe(config).split("·")
    assert "r 8" in lora and "2e-4" in lora and "5e-5" in full
    assert validation.from_json(config.to_json()) == config


def test_a_tied_weight_has_one_rate() -> None:
    module_map = discover(tiny.config("llama"), "llama")

    def issues(*ticks: Tick) -> list[tuple[str, bool]]:
        config = RunConfig(modules=ticks, training=TrainingConfig(max_length=64))
        return [(issue.field, "learning rates" in issue.problem) for issue in make_plan(config, module_map).issues]

    embedding, head = Tick("embed_tokens", "full"), Tick("lm_head", "full", lr=3e-5)
    assert issues(embedding, head) == [("modules", True)]
    assert issues(Tick("embed_tokens", "full", lr=3e-5), head) == []
    assert issues(embedding, Tick("lm_head", "full", lr=1e-5)) == [], "a tenth of 1e-4, as the other's"


@pytest.mark.parametrize("rate", [0, 2, "fast"])
def test_a_rate_out_of_bounds_is_refused(rate: Any) -> None:
    with pytest.raises(InvalidConfig) as refused:
        validation.from_json({"modules": [{"name": "q_proj", "lr": rate}]})
    assert [issue.field for issue in refused.value.issues] == ["modules[0].lr"]
