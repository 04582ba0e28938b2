"""Groups and sizes of published models, the rules of grouping over every type, and warnings of partial coverage."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from tests.models.test_discovery import TYPES
from tests.models.test_discovery import mapped as tiny_map
from tests.support import published
from tests.support.published import DENSE, EXPERTS, HYBRIDS, WRAPPERS, make_config
from tests.support.tiny_configs import tiny_config
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick
from trainer.models.discovery.discover import build, discover
from trainer.models.discovery.treatments import FIXED, UNUSED
from trainer.models.module_map import GROUPS, ModuleKind, ModuleMap
from trainer.planning.coverage_warnings import routed_experts
from trainer.planning.plan import make_plan


@cache
def real_map(name: str) -> ModuleMap:
    return discover(make_config(name), name)


def whole(module_map: ModuleMap) -> list[ModuleKind]:
    return [kind for kind in module_map.kinds if kind.slice_of is None]


def shares(module_map: ModuleMap) -> dict[str, float]:
    """Per cent of the model's parameters in each group, to one decimal."""
    sizes = {group: sum(kind.parameters for kind in whole(module_map) if kind.group == group) for group in GROUPS}
    return {group: round(100 * size / module_map.parameters, 1) for group, size in sizes.items()}


# ---- published models


def slow(name: str) -> Any:
    """It takes half a minute to read Kimi-Linear's 20,000 expert matrices."""
    return pytest.param(name, marks=pytest.mark.full) if "Kimi" in name else name


@pytest.mark.parametrize("name", [*DENSE, *EXPERTS, *HYBRIDS])
def test_published_models_have_their_published_size(name: str) -> None:
    model = build(make_config(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == published.ALL[name].parameters


SHARES = {  # attention, MLP, embedding and head, other
    "google/gemma-4-26B-A4B": (4.3, 90.6, 2.9, 2.3),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B": (0.4, 94.5, 2.2, 2.8),
    "Qwen/Qwen3-Next-80B-A3B-Instruct": (1.9, 97.2, 0.8, 0.1),
    "Qwen/Qwen3-30B-A3B": (3.0, 95.0, 2.0, 0.0),
    "openai/gpt-oss-20b": (3.0, 91.4, 5.5, 0.0),
    "ibm-granite/granite-4.0-h-tiny": (0.4, 89.8, 2.2, 7.7),
    "ai21labs/Jamba-v0.1": (0.3, 92.9, 1.0, 5.7),
    "LiquidAI/LFM2-8B-A1B": (0.8, 94.0, 1.6, 3.6),
    "moonshotai/Kimi-Linear-48B-A3B": (2.0, 96.4, 1.5, 0.0),
    "nvidia/Nemotron-H-8B-Base-8K": (2.1, 52.2, 13.3, 32.5),
}


@pytest.mark.parametrize("name", [slow(name) for name in SHARES])
def test_groups_of_mixtures_of_experts_and_hybrids(name: str) -> None:
    assert tuple(shares(real_map(name)).values()) == SHARES[name]


ROUTED = {  # layers with experts × experts × matrices × width of an expert × hidden size
    "google/gemma-4-26B-A4B": 30 * 128 * 3 * 704 * 2816,
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B": 23 * 128 * 2 * 1856 * 2688,
    "Qwen/Qwen3-Next-80B-A3B-Instruct": 48 * 512 * 3 * 512 * 2048,
    "moonshotai/Kimi-Linear-48B-A3B": 26 * 256 * 3 * 1024 * 2304,
}


@pytest.mark.parametrize("name", [slow(name) for name in ROUTED])
def test_routed_experts_are_mlp_to_the_last_number_and_take_lora(name: str) -> None:
    experts = routed_experts(real_map(name))
    assert sum(kind.parameters for kind in experts) == ROUTED[name]
    assert all(kind.group == "mlp" and "lora" in kind.treatments for kind in experts)


@pytest.mark.parametrize("name", WRAPPERS)
def test_towers_of_published_wrappers_stand_apart(name: str) -> None:
    module_map = real_map(name)
    assert module_map.parameters == WRAPPERS[name].parameters
    towers = [kind for kind in module_map.kinds if kind.tower]
    assert all(kind.group == "other" and not kind.treatments for kind in towers)
    outside = re.compile(r"visual|vision|projector|image")
    assert {kind.name for kind in towers} == {k.name for k in module_map.kinds if outside.search(k.modules[0])}
    assert {"q_proj", "k_proj", "v_proj", "o_proj"} <= {kind.name for kind in module_map.group("attention")}
    assert {"gate_proj", "up_proj", "down_proj"} <= {kind.name for kind in module_map.group("mlp")}


# ---- rules that hold for every type

EXPERT = re.compile(r"\.(experts?|shared_experts?)\.")
ROUTER = re.compile(
    r"\.router\.|\.(mlp|feed_forward|block_sparse_moe|mixer)\.gate(\.(wg|weight|moe_statics))?$|shared_expert_gate$"
)
TOWER = re.compile(r"vision|visual|image|img_|audio|multi_modal|encoder_attn|cross_attn\.")


@pytest.mark.parametrize("model_type", TYPES)
def test_experts_are_mlp_and_routers_are_not(model_type: str) -> None:
    for kind in whole(tiny_map(model_type)):
        path, router = kind.modules[0], ROUTER.search(f"{kind.modules[0]}") or "Router" in kind.class_name
        if router:
            assert kind.group == "other", path
        elif EXPERT.search(path) and len(kind.shape) > 1 and not kind.tower:
            # JetMoe's attention has experts of its own
            assert kind.group == ("attention" if "attention" in path else "mlp"), path


@pytest.mark.parametrize("model_type", TYPES)
def test_attention_and_mlp_hold_what_text_runs_through(model_type: str) -> None:
    for kind in tiny_map(model_type).kinds:
        if kind.group in ("attention", "mlp"):
            assert kind.treatments or kind.reason not in (UNUSED, FIXED), kind.name
            assert not kind.tower
        if kind.tower:
            assert (kind.group, kind.treatments) == ("other", ()) or kind.group == "embedding"
        if TOWER.search(kind.modules[0]) and model_type != "blt":
            assert kind.tower, kind.name


@pytest.mark.parametrize("model_type", TYPES)
def test_no_linear_of_attention_or_mlp_is_left_in_other(model_type: str) -> None:
    for kind in whole(tiny_map(model_type)):
        named = re.search(r"\.(self_attn|attention|attn|mlp|ffn|feed_forward)\.[a-z0-9_]+$", kind.modules[0])
        linear = kind.class_name in ("Linear", "Conv1D") and kind.shape[0] > 1 and "lora" in kind.treatments
        if named and linear and not ROUTER.search(kind.modules[0]) and "layernorm" not in kind.modules[0]:
            assert kind.group in ("attention", "mlp"), kind.name


def test_recurrent_mixers_are_known() -> None:
    found = {name: {kind.name for kind in tiny_map(name).kinds if kind.recurrent} for name in TYPES}
    hybrids = {
        name
        for name, kinds in found.items()
        if kinds and any(kind.group == "attention" and not kind.recurrent for kind in tiny_map(name).kinds)
    }
    assert hybrids == {
        *("bailing_hybrid", "bamba", "falcon_h1", "granitemoehybrid", "jamba", "kimi_linear", "lfm2_moe", "lfm3"),
        *("minimax", "nemotron_h", "olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text"),
        *("qwen3_next", "qwen4_exp", "qwen4_exp_text", "recurrent_gemma", "zamba", "zamba2"),
    }
    assert {"in_proj_qkvz", "in_proj_ba", "out_proj"} <= found["qwen3_next"]
    assert "q_proj" not in found["qwen3_next"]


# ---- warnings


def warned(module_map: ModuleMap, *ticks: Tick, adapter: AdapterConfig | None = None) -> list[str]:
    """What the plan says about coverage."""
    adapter = adapter or AdapterConfig(lora_dropout=0.0)
    config = RunConfig(modules=ticks, adapter=adapter, model=ModelConfig(quantization="none"))
    plan = make_plan(config, module_map)
    assert not plan.issues
    return [warning.problem for warning in plan.warnings if warning.field == "modules"]


def lora(module_map: ModuleMap, *groups: str, experts: bool = True) -> list[Tick]:
    """LoRA on every linear of these groups."""
    routed = {kind.name for kind in routed_experts(module_map)}
    return [
        Tick(kind.name)
        for kind in whole(module_map)
        if kind.group in groups and "lora" in kind.treatments and (experts or kind.name not in routed)
    ]


def test_all_linears_of_a_dense_model_are_not_warned_of() -> None:
    for name in ("microsoft/Phi-3-medium-128k-instruct", "Qwen/Qwen2.5-7B-Instruct"):
        module_map = real_map(name)
        assert warned(module_map, *lora(module_map, "attention", "mlp")) == []
        assert warned(module_map, *lora(module_map, "attention", "mlp"), Tick("lm_head", "full")) == []


def test_attention_only_says_what_the_mlp_holds() -> None:
    phi = real_map("microsoft/Phi-3-medium-128k-instruct")
    (only,) = warned(phi, *lora(phi, "attention"))
    assert only.startswith("Attention") and "MLP holds 79 %" in only
    (with_head,) = warned(phi, Tick("q_proj"), Tick("lm_head", "full"))
    assert with_head.startswith("No MLP") and "MLP holds 79 %" in with_head
    qwen = real_map("Qwen/Qwen3-30B-A3B")
    (only,) = warned(qwen, *lora(qwen, "attention"))
    assert "MLP holds 95 %" in only


def test_modules_of_few_layers_are_counted() -> None:
    nemotron = real_map("nvidia/Nemotron-H-8B-Base-8K")
    few, share = warned(nemotron, *lora(nemotron, "attention"))
    assert "4 of 52 layers" in few and "q_proj, k_proj, v_proj and o_proj" in few
    assert "MLP holds 52 %" in share
    phi = real_map("microsoft/Phi-3-medium-128k-instruct")
    chosen = [Tick(tick.name, layers="last 8") for tick in lora(phi, "attention", "mlp")]
    assert warned(phi, *chosen) == []  # layers that a person chose are no surprise
    config = tiny_config("mllama")
    text = config.get_text_config()
    text.cross_attention_layers, text.max_position_embeddings = [1], 512
    vision = discover(config, "mllama")  # text never runs through its layers of cross-attention
    assert {kind.layers for kind in vision.kinds if kind.group == "attention"} == {(0,)}
    assert warned(vision, *lora(vision, "attention", "mlp")) == []


def test_mlp_ticks_beside_the_routed_experts() -> None:
    qwen = real_map("Qwen/Qwen3-Next-80B-A3B-Instruct")
    shared = lora(qwen, "mlp", experts=False)
    (warning,) = warned(qwen, *shared)
    assert "routed experts hold 97 %" in warning


def test_lora_on_experts_and_recurrent_mixers() -> None:
    qwen = real_map("Qwen/Qwen3-Next-80B-A3B-Instruct")
    experts, mixers = warned(qwen, *lora(qwen, "attention", "mlp"))
    assert "512 experts" in experts and "99 %" in experts
    assert mixers.startswith("in_proj_qkvz, in_proj_ba and out_proj") and "recurrent" in mixers
    lower = [Tick(t.name, r=1) if t.name in ("gate_up_proj", "experts.down_proj") else t for t in lora(qwen, "mlp")]
    assert warned(qwen, *lower) == []
    mamba = tiny_map("mamba")  # nothing but recurrent mixers: no choice to race
    assert warned(mamba, *lora(mamba, "other")) == []
