"""What is ticked is what trains: on tiny real models, with real steps, down to the rows of a slice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import exercise, tiny
from trainer.common.errors import UserError
from trainer.config.schema import AdapterConfig, RunConfig, Tick, TrainingConfig
from trainer.models.discovery.discover import discover
from trainer.planning.plan import make_plan
from trainer.planning.scenarios import SIX
from trainer.training import adapter

PLAIN = AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.0)
SELECTIONS = {
    "phi3": [["q_proj"], ["k_proj", "up_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"], ["qkv_proj"], ["lm_head"]],
    "llama": [["q_proj", "down_proj"], ["embed_tokens"], ["lm_head"]],
    "gpt2": [["c_attn"], ["wte"]],
    "moe": [["q_proj", "experts.gate_up_proj"], ["experts.down_proj"]],
}
CASES = [(kind, names) for kind, selections in SELECTIONS.items() for names in selections]


@pytest.mark.parametrize(("kind", "names"), CASES, ids=str)
def test_lora_moves_what_its_receipt_names_and_reloads_in_plain_peft(
    kind: str, names: list[str], tmp_path: Path
) -> None:
    config = tiny.config(kind)
    trained = exercise.train(exercise.build(config, [Tick(name) for name in names], PLAIN))
    named = {name for receipt in trained.plan.receipts for name in receipt.names}
    moved = {adapter._owner(name)[0] for name in trained.moved()}
    assert moved == {name.rpartition(".")[0] if "experts." in name else name for name in named}
    again = exercise.reloaded(trained, config, tmp_path)
    assert torch.equal(exercise.logits(again, config), exercise.logits(trained.model, config))


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}], ids=str)
def test_a_slice_moves_its_own_rows_only(settings: dict[str, Any]) -> None:
    config = tiny.config("phi3")
    trained = exercise.train(
        exercise.build(config, [Tick("k_proj", r=2, lora_alpha=4), Tick("v_proj", r=2, lora_alpha=4)],
                       replace(PLAIN, **settings)), steps=3)  # fmt: skip
    fused = trained.model.base_model.model.get_submodule("model.layers.1.self_attn.qkv_proj")
    weight = fused.lora_B["default"].weight
    assert weight.shape == (64, 4)
    k, v = weight[32:48, :2], weight[48:64, 2:]
    assert bool(k.abs().min() > 0)
    assert bool(v.abs().min() > 0)
    assert int(torch.count_nonzero(weight)) == k.numel() + v.numel()
    if "use_dora" in settings:
        magnitude = "base_model.model.model.layers.1.self_attn.qkv_proj.lora_magnitude_vector.default.weight"
        before, now = trained.before[magnitude], dict(trained.model.named_parameters())[magnitude]
        assert torch.equal(before[:32], now[:32])
        assert not torch.equal(before[32:], now[32:])


def test_slices_train_as_the_projections_of_an_unfused_model_do() -> None:
    """Phi-3 with three slices against Llama with q, k and v apart: the same weights, the same path."""
    fused_config, apart_config = tiny.config("phi3"), tiny.config("llama")
    apart_config.tie_word_embeddings = False
    apart_config.rms_norm_eps = fused_config.rms_norm_eps
    ticks = [Tick("q_proj"), Tick("k_proj"), Tick("v_proj"), Tick("gate_proj"), Tick("up_proj")]
    fused = exercise.build(fused_config, ticks, PLAIN)
    apart = exercise.build(apart_config, ticks, PLAIN)
    assert fused.plan.trainable == apart.plan.trainable
    left, right = fused.model.base_model.model, apart.model.base_model.model
    with torch.no_grad():
        _copy_unfused(left, right)
    for trained in (fused, apart):
        trained.model.double()  # Adam turns rounding into steps where gradients are near zero
        exercise.train(trained, steps=4)
    difference = exercise.logits(left, fused_config) - exercise.logits(right, fused_config)
    assert float(difference.abs().max()) < 1e-8


def _copy_unfused(left: Any, right: Any) -> None:
    """Weights of the fused model `left`, base and LoRA A, into the unfused model `right`."""
    parts = {
        "self_attn.qkv_proj": [
            ("self_attn.q_proj", 0, 32),
            ("self_attn.k_proj", 32, 48),
            ("self_attn.v_proj", 48, 64),
        ],
        "mlp.gate_up_proj": [("mlp.gate_proj", 0, 48), ("mlp.up_proj", 48, 96)],
    }
    source = {name: value for name, value in left.state_dict().items() if "lora" not in name and "_proj" not in name}
    right.load_state_dict(source, strict=False)
    for layer in range(3):
        for plain in ("self_attn.o_proj", "mlp.down_proj"):
            path = f"model.layers.{layer}.{plain}"
            right.get_submodule(path).weight.copy_(left.get_submodule(path).weight)
        for fused, pieces in parts.items():
            whole = left.get_submodule(f"model.layers.{layer}.{fused}")
            for number, (name, start, end) in enumerate(pieces):
                piece = right.get_submodule(f"model.layers.{layer}.{name}")
                piece.base_layer.weight.copy_(whole.base_layer.weight[start:end])
                a = whole.lora_A["default"].weight[number * 4 : number * 4 + 4]
                piece.lora_A["default"].weight.copy_(a)


FULL = [("phi3", "lm_head"), ("phi3", "o_proj"), ("llama", "lm_head"), ("llama", "embed_tokens"), ("gpt2", "wte")]


@pytest.mark.parametrize(("kind", "name"), FULL)
def test_full_training_alone_needs_no_lora(kind: str, name: str, tmp_path: Path) -> None:
    config = tiny.config(kind)
    trained = exercise.train(exercise.build(config, [Tick(name, "full")], PLAIN))
    assert trained.moved() == {n for n, p in trained.model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.model.parameters() if p.requires_grad) == trained.plan.trainable
    if config.tie_word_embeddings:
        model = trained.model
        assert torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    again = exercise.reloaded(trained, config, tmp_path)
    assert torch.equal(exercise.logits(again, config), exercise.logits(trained.model, config))


@pytest.mark.parametrize("scenario", SIX, ids=lambda item: str(item.key))
def test_the_plan_of_every_scenario_counts_exactly(scenario: object) -> None:
    config = tiny.config("phi3")
    trained = exercise.build(config, list(scenario.modules), PLAIN)  # type: ignore[attr-defined]
    free = adapter.trainable_entries(trained.model, trained.plan, PLAIN)
    assert free == trained.plan.trainable
    for receipt in trained.plan.receipts:
        assert (receipt.matched > 0) == (receipt.tick not in ("fc1", "fc2"))
        if not receipt.matched:
            assert "gate_up_proj" in receipt.note


def test_a_model_that_differs_from_its_plan_does_not_start() -> None:
    config = tiny.config("phi3")
    trained = exercise.build(config, [Tick("q_proj")], PLAIN)
    next(p for n, p in trained.model.named_parameters() if "layernorm" in n).requires_grad = True
    with pytest.raises(UserError, match="differ"):
        adapter.verify(trained.model, trained.plan, PLAIN, trained.module_map)


@pytest.mark.parametrize(
    ("ticks", "field", "word"),
    [
        ([], "modules", "Nothing"),
        ([Tick("fc1")], "modules", "matches"),
        ([Tick("qkv_proj"), Tick("q_proj")], "modules[1]", "qkv_proj"),
        ([Tick("q_proj", "full")], "modules[0]", "full"),
        ([Tick("q_proj", r=8), Tick("k_proj", r=4)], "modules", "scale"),
        ([Tick("q_proj", layers="7-9")], "modules[0]", "layer 9"),
    ],
)
def test_selections_that_cannot_train_say_why(ticks: list[Tick], field: str, word: str) -> None:
    config = RunConfig(modules=tuple(ticks), adapter=PLAIN, training=TrainingConfig(max_length=8))
    plan = make_plan(config, discover(tiny.config("phi3"), "tiny"))
    assert any(issue.field == field and word in issue.problem for issue in plan.issues), plan.issues


def test_lora_is_initialized_while_torch_s_own_functions_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers' `no_init_weights` does, for the whole process, while a model is built without weights."""
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, *_, **__: tensor.data.fill_(torch.nan))
    built = exercise.build(tiny.config("phi3"), [Tick("o_proj")], PLAIN)
    started = [weight for name, weight in built.model.named_parameters() if "lora_A" in name]
    assert started
    assert all(bool(weight.isfinite().all()) and bool(weight.any()) for weight in started)
