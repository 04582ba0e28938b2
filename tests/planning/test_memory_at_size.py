"""The plan's bytes beside those of real sizes: models of billions of parameters, held as a GPU would hold them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from transformers import CONFIG_MAPPING, PreTrainedConfig, Qwen3MoeConfig

from tests.support import fake_gpu
from tests.support.meter import phi3_medium
from trainer.common.devices import Device
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick, TrainingConfig
from trainer.models.discovery.discover import discover
from trainer.models.module_map import ModuleMap
from trainer.planning.attention import SDPA, VARLEN
from trainer.planning.memory.estimate import estimate
from trainer.planning.memory.peak import CUBLAS, Estimate
from trainer.planning.plan import Plan, make_plan

H100 = Device("cuda:0", total=10**12, free=10**12, bfloat16=True)
"""With room for whatever is planned here."""
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("phi3-medium", {}),
    ("gemma2", {"every": 1, "quantization": "none"}),
    ("llama", {"batch": 4, "attention": VARLEN}),
    ("gpt2", {}),
)
"""Fused and unfused linears, quantized and not, with and without recomputing, Conv1D."""
MORE = [
    ("qwen3", {"batch": 1, "length": 4096}),
    ("phi3-medium", {"slices": True, "every": 3}),
    ("llama", {"lora_dropout": 0.0}),
    ("gpt_neox", {}),
    ("cohere", {"batch": 1}),
] + [
    (kind, changes)
    for kind in (
        *("apertus", "exaone4", "gemma", "gemma3_text", "glm4", "granite", "helium", "llama", "mistral"),
        *("olmo", "olmo2", "persimmon", "phi", "phi3", "qwen2", "qwen3", "smollm3", "stablelm", "starcoder2"),
    )
    for changes in ({}, {"every": 1}, {"lora_dropout": 0.0}, {"quantization": "none", "every": 2})
]


@pytest.mark.parametrize(
    ("kind", "changes"), [*CASES, *(pytest.param(*case, marks=pytest.mark.full) for case in MORE)]
)
def test_the_plan_is_within_five_percent_of_a_gpus_tensors(kind: str, changes: dict[str, Any]) -> None:
    config: PreTrainedConfig = phi3_medium() if kind == "phi3-medium" else CONFIG_MAPPING[kind]()
    module_map = discover(config, kind)
    run = run_of(module_map, **{key: value for key, value in changes.items() if key not in ("every", "attention")})
    training, every = run.training, changes.get("every", 0)
    plan = make_plan(run, module_map, H100)
    assert not plan.issues
    costs = estimate_of(run, module_map, plan, every, changes.get("attention", SDPA))
    masked = costs.setup.masks(run, training.per_device_train_batch_size)
    real = fake_gpu.measure(config, run, plan, module_map, masked, every)
    static = sum(size for name, size in costs.static.items() if "optimizer" not in name and "CUDA" not in name)
    assert static == pytest.approx(real.static, rel=0.01)
    forward, *others = costs.moments(training.per_device_train_batch_size, training.max_length)
    assert forward["activations"] == pytest.approx(real.kept, rel=0.05)
    backward = max(sum(moment.values()) for moment in others) - CUBLAS
    assert static + backward == pytest.approx(real.static + real.backward, rel=0.05)


@pytest.mark.parametrize(
    ("experts", "every", "batch", "length"),
    [(False, 0, 4, 512), (True, 0, 4, 512), (False, 1, 4, 512), (True, 1, 4, 512), (False, 1, 1, 65536)],
)
def test_quantized_experts_at_the_size_of_qwen3_30b(experts: bool, every: int, batch: int, length: int) -> None:
    """Four of its 48 layers. Its weights in full are there in the forward pass, one layer's at a time. On a long row,
    what the chosen experts compute for every token weighs more than they do."""
    config = qwen3_30b(layers=4)
    module_map = discover(config, "Qwen3-30B-A3B")
    run = run_of(module_map, batch=batch, length=length, lora_dropout=0.0)
    if not experts:
        run = replace(run, modules=tuple(tick for tick in run.modules if tick.name in ("q_proj", "o_proj")))
    plan = make_plan(run, module_map, H100)
    assert not plan.issues
    costs = estimate_of(run, module_map, plan, every)
    real = fake_gpu.measure(config, run, plan, module_map, masked=batch > 1, every_n_layers=every)
    static = sum(size for name, size in costs.static.items() if "optimizer" not in name and "CUDA" not in name)
    assert static == pytest.approx(real.static, rel=0.001)
    forward, *others = costs.moments(batch, length)
    assert forward["activations"] == pytest.approx(real.kept, rel=0.05)
    most = max(sum(moment.values()) for moment in others) - CUBLAS
    assert static + most == pytest.approx(real.static + max(real.forward, real.backward), rel=0.05)


def qwen3_30b(layers: int = 48) -> PreTrainedConfig:
    """Qwen3-30B-A3B, of fewer layers if asked."""
    return Qwen3MoeConfig(
        hidden_size=2048,
        moe_intermediate_size=768,
        num_experts=128,
        num_experts_per_tok=8,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
        max_position_embeddings=262144,
        vocab_size=151936,
        tie_word_embeddings=False,
    )


def estimate_of(run: RunConfig, module_map: ModuleMap, plan: Plan, every: int, attention: str = SDPA) -> Estimate:
    """The estimate on an H100 whose every `every`-th layer recomputes. Counted is what SDPA keeps, with or without a
    mask: without one, that is what `varlen_attn` keeps as well."""
    costs = estimate(run, module_map, plan.targets, H100, every > 0, attention)
    return costs.with_performance(every, 1)


def run_of(
    module_map: ModuleMap,
    batch: int = 8,
    length: int = 512,
    slices: bool = False,
    lora_dropout: float = 0.05,
    quantization: Any = "nf4",
) -> RunConfig:
    """LoRA on all linears of attention and MLP, of fused ones as a whole or by their slices."""
    kinds = [kind for kind in module_map.kinds if kind.group in ("attention", "mlp") and "lora" in kind.treatments]
    fused = {kind.slice_of for kind in kinds}
    ticked = [kind for kind in kinds if (kind.name not in fused if slices else not kind.slice_of)]
    return RunConfig(
        model=ModelConfig(name="model", quantization=quantization, dtype="bfloat16"),
        modules=tuple(Tick(kind.name) for kind in ticked),
        adapter=AdapterConfig(r=16, lora_alpha=16, lora_dropout=lora_dropout),
        training=TrainingConfig(
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=1,
            max_length=length,
            micro_batches="off",
            packing="off",
        ),
    )
