"""The module map over every causal LM of transformers, at tiny size, and Phi-3-medium to the last number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import AutoModelForCausalLM, Phi3Config, PretrainedConfig, PreTrainedModel

from tests.support.tiny_configs import MODEL_TYPES, NOT_BUILT, tiny_config
from trainer.common.errors import UserError
from trainer.models.block_graph import JOINS
from trainer.models.discovery.discover import build, discover
from trainer.models.discovery.probing import extra_inputs
from trainer.models.module_map import GROUPS, ModuleKind, ModuleMap

TYPES = [model_type for model_type in MODEL_TYPES if model_type not in NOT_BUILT]
PHI3_MEDIUM: dict[str, Any] = {
    "hidden_size": 5120,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 10,
    "intermediate_size": 17920,
    "vocab_size": 32064,
}


@cache
def mapped(model_type: str) -> ModuleMap:
    return discover(tiny_config(model_type), model_type)


def real(config: PretrainedConfig) -> PreTrainedModel:
    """The model with random weights that are large enough to tell effects from rounding."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data.normal_(0, 0.3)
    return model


def own_parameters(model: PreTrainedModel, kind: ModuleKind) -> list[nn.Parameter]:
    if kind.class_name == "Parameter":
        return [model.get_parameter(name) for name in kind.modules]
    return [p for name in kind.modules for p in model.get_submodule(name).parameters(recurse=False)]


def fused(module_map: ModuleMap) -> list[ModuleKind]:
    return [kind for kind in module_map.kinds if module_map.slices(kind.name)]


@pytest.mark.parametrize("model_type", TYPES)
def test_every_parameter_is_in_exactly_one_kind(model_type: str) -> None:
    module_map = mapped(model_type)
    model = build(tiny_config(model_type))
    homes: Counter[int] = Counter()
    for kind in module_map.kinds:
        if kind.slice_of is None and kind.tied_to is None:
            homes.update({id(parameter) for parameter in own_parameters(model, kind)})
    tied = [p for kind in module_map.kinds if kind.tied_to for p in own_parameters(model, kind)]
    assert set(homes) | set(map(id, tied)) == {id(parameter) for parameter in model.parameters()}
    assert set(homes.values()) == {1}
    assert sum(k.parameters for k in module_map.kinds if k.slice_of is None) == module_map.parameters
    assert module_map.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("model_type", TYPES)
def test_names_are_unique_and_groups_known(model_type: str) -> None:
    kinds = mapped(model_type).kinds
    assert len({kind.name for kind in kinds}) == len(kinds)
    assert {kind.group for kind in kinds} <= set(GROUPS)
    assert all(len(kind.modules) == len(kind.shapes) for kind in kinds)
    assert all(kind.reason or set(kind.treatments) == {"lora", "full"} for kind in kinds)
    assert ModuleMap.from_json(mapped(model_type).to_json()) == mapped(model_type)


@pytest.mark.parametrize("model_type", TYPES)
def test_embedding_and_head_are_where_the_model_says(model_type: str) -> None:
    module_map = mapped(model_type)
    model = build(tiny_config(model_type))
    homes = {name: kind for kind in module_map.kinds for name in kind.modules}
    names = {id(module): name for name, module in model.named_modules()}
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if module is not None and names[id(module)] in homes:
            assert homes[names[id(module)]].group == "embedding"
    inner = [kind for kind in module_map.kinds if kind.group in ("attention", "mlp")]
    assert inner or model_type in ("mamba", "mamba2", "falcon_mamba")


NOT_FOLLOWED = {
    "gemma3n_text": "One module of a layer runs at its start and at its end.",
    "inkling2_text": "A module in a layer takes a list of the states of all layers before.",
    "reformer": "Reversible layers run without a graph.",
    "xlnet": "Its attention is bare parameters in a formula.",
    "xmod": "A norm of a layer runs twice.",
}
"""Types of which some layer is a plain list, and why."""


@pytest.mark.parametrize("model_type", TYPES)
def test_every_kind_stands_in_the_blocks_that_have_it(model_type: str) -> None:
    module_map = mapped(model_type)
    whole = [kind for kind in module_map.kinds if kind.slice_of is None]
    ticked = [kind for kind in whole if kind.treatments]
    drawn = {name for block in module_map.blocks for name in block.kinds}
    assert {kind.name for kind in ticked} <= drawn <= {kind.name for kind in whole}
    for block in (block for block in module_map.blocks if block.stack):
        count = Counter(block.kinds)
        for kind in ticked:
            first = f"{block.stack}.{block.layers[0]}."
            number = sum(name.startswith(first) for name in kind.modules)
            assert (count[kind.name] > 0) == (number > 0), kind.name
            assert count[kind.name] <= max(number, 1), kind.name  # two modules in a layer may stand twice


@pytest.mark.parametrize("model_type", TYPES)
def test_blocks_hold_every_layer_once_and_flow_one_way(model_type: str) -> None:
    module_map = mapped(model_type)
    stacks: dict[str, list[int]] = {}
    for block in module_map.blocks:
        stacks.setdefault(block.stack, []).extend(block.layers)
        for number, part in enumerate(block.parts):
            assert all(-1 <= take < number for take in part.takes)
            assert part.role not in JOINS or len(part.takes) > 1
            assert not (block.measured and block.stack and part.rows) or part.takes or part.outside
    plain = [block.stack for block in module_map.blocks if block.stack and not block.measured]
    assert bool(plain) == (model_type in NOT_FOLLOWED)
    names = [name for kind in module_map.kinds for name in kind.modules]
    for stack in stacks.keys() - {""}:
        inner = {name[len(stack) + 1 :].partition(".")[0] for name in names if name.startswith(f"{stack}.")}
        assert sorted(stacks[stack]) == sorted(map(int, inner))


@pytest.mark.parametrize("model_type", sorted(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.keys() & set(TYPES)))
def test_pefts_own_targets_are_attention_or_mlp(model_type: str) -> None:
    targets = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING[model_type]
    if isinstance(targets, str):
        targets = ["q_proj", "v_proj"]
    for kind in mapped(model_type).kinds:
        live = kind.slice_of is None and kind.treatments and not kind.name.startswith("vision_tower")
        if live and kind.modules[0].rpartition(".")[2] in targets:
            assert kind.group in ("attention", "mlp"), kind.name


@pytest.mark.parametrize("model_type", TYPES)
def test_slices_partition_the_rows_of_their_module(model_type: str) -> None:
    module_map = mapped(model_type)
    for kind in fused(module_map):
        ranges = sorted(row for part in module_map.slices(kind.name) for row in part.rows or ())
        assert ranges[0][0] == 0
        assert ranges[-1][1] == kind.shape[0]
        assert all(end == start for (_, end), (start, _) in pairwise(ranges))
        for part in module_map.slices(kind.name):
            assert part.shape == (sum(end - start for start, end in part.rows or ()), kind.shape[1])
            assert part.modules == kind.modules
            assert part.treatments == ("lora",)


FUSED_TYPES = [
    "axk1",
    "axk2",
    "bailing_hybrid",
    "bamba",
    "bloom",
    "codegen",
    "dbrx",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "falcon",
    "falcon_h1",
    "falcon_mamba",
    "fuyu",
    "glm",
    "glm4",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "gpt-sw3",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "gpt_neox_japanese",
    "granitemoehybrid",
    "jamba",
    "jetmoe",
    "kimi_linear",
    "lfm2_moe",
    "lfm3",
    "longcat_flash",
    "mamba",
    "mamba2",
    "minicpm3",
    "minimax_m3_vl_text",
    "modernbert-decoder",
    "moshi",
    "mpt",
    "nemotron_h",
    "openai-gpt",
    "persimmon",
    "phi3",
    "phi4_multimodal",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_next",
    "qwen4_exp",
    "qwen4_exp_text",
    "youtu",
    "zamba",
    "zamba2",
]
VARIANTS: dict[str, dict[str, Any]] = {
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "num_attention_heads": 4},
    "falcon-1b": {"multi_query": False, "alibi": True},
    "gpt_bigcode": {"multi_query": False},
    "mpt": {"attn_config": {"clip_qkv": 6.0}},
    "phi3": {"num_key_value_heads": 4},
}


def test_the_types_with_slices_are_known() -> None:
    assert [model_type for model_type in TYPES if fused(mapped(model_type))] == FUSED_TYPES


@pytest.mark.parametrize("model_type", FUSED_TYPES)
def test_slices_do_what_their_names_say(model_type: str) -> None:
    check_slices(tiny_config(model_type), mapped(model_type))


@pytest.mark.parametrize("name", VARIANTS)
def test_slices_of_other_layouts_of_one_architecture(name: str) -> None:
    base = tiny_config(name.partition("-")[0])
    config = type(base).from_dict({**base.to_dict(), **VARIANTS[name]})
    module_map = discover(config, name)
    assert fused(module_map)
    check_slices(config, module_map)


def check_slices(config: PretrainedConfig, module_map: ModuleMap) -> None:
    """On a real model of two tokens: disturb the rows of one slice, and see what that changes."""
    model = real(config)
    for kind in fused(module_map):
        parts = {part.name.rpartition(".")[2]: part for part in module_map.slices(kind.name)}
        if parts.keys() & {"x", "q", "a"}:
            continue  # a mixer: tests/test_mixers.py
        for name in kind.modules:
            if "up_proj" in parts:
                check_gated(model, config, name, parts)
            elif "gate" in parts:
                check_gated_queries(model, config, name, parts)
            else:
                check_attention(model, config, name, parts)


def check_attention(
    model: PreTrainedModel, config: PretrainedConfig, name: str, parts: dict[str, ModuleKind]
) -> None:
    plain = logits(model, config)
    changed = {}
    for role, part in parts.items():
        for token in (0, 1):
            with disturbed(model, name, part, token):
                change = (logits(model, config) - plain).abs().amax((0, 2)) > 1e-4 * plain.abs().max()
            changed[role, token] = change.tolist()
    wanted = {  # [does the first token's output change?, the second's?]
        ("q_proj", 0): [False, False],  # one key only: whatever is asked, its value is the answer
        ("q_proj", 1): [False, True],
        ("k_proj", 0): [False, True],
        ("k_proj", 1): [False, True],
        ("v_proj", 0): [True, True],
        ("v_proj", 1): [False, True],
    }
    assert changed == {key: value for key, value in wanted.items() if key[0] in parts}


def check_gated_queries(
    model: PreTrainedModel, config: PretrainedConfig, name: str, parts: dict[str, ModuleKind]
) -> None:
    """A gate works on its own token, and when it is shut, nothing is left of any token."""
    outputs: list[torch.Tensor] = []
    parent = model.get_submodule(name.rpartition(".")[0])
    handle = parent.register_forward_hook(lambda _module, _args, output: outputs.append(output[0]))
    logits(model, config)
    changed = {}
    for role, part in parts.items():
        for token in (0, 1):
            with disturbed(model, name, part, token):
                logits(model, config)
            change = (outputs[-1] - outputs[0]).abs().amax((0, 2)) > 1e-4 * outputs[0].abs().max()
            changed[role, token] = change.tolist()
    with shut(model, name, parts["gate"]):
        logits(model, config)
    handle.remove()
    assert changed == {
        ("query", 0): [False, False],
        ("query", 1): [False, True],
        ("gate", 0): [True, False],
        ("gate", 1): [False, True],
    }
    assert torch.equal(outputs[-1][:, 0], outputs[-1][:, 1])


def check_gated(model: PreTrainedModel, config: PretrainedConfig, name: str, parts: dict[str, ModuleKind]) -> None:
    """Half as much of the `up` rows is half way to none at all; of the `gate` rows it is not."""
    outputs: list[torch.Tensor] = []
    parent = model.get_submodule(name.rpartition(".")[0])
    handle = parent.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    bent = {}
    for role, part in parts.items():
        outputs.clear()
        for factor in (0.0, 0.5, 1.0):
            with scaled(model, name, part, factor):
                logits(model, config)
        none, half, whole = outputs[:: len(outputs) // 3]
        bent[role] = bool((none + whole - 2 * half).abs().max() > 1e-4 * (whole - none).abs().max())
        assert not torch.equal(none, whole)
    handle.remove()
    assert bent == {"gate_proj": True, "up_proj": False}


def logits(model: PreTrainedModel, config: PretrainedConfig) -> torch.Tensor:
    extra = {key: value[:1] for key, value in extra_inputs(config).items()}
    with torch.no_grad():
        return model(input_ids=torch.tensor([[11, 23]]), use_cache=False, **extra).logits


@contextmanager
def disturbed(model: PreTrainedModel, name: str, part: ModuleKind, token: int) -> Iterator[None]:
    def hook(_module: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        for start, end in part.rows or ():
            output[..., token, start:end] += torch.linspace(-2, 3, end - start)
        return output

    handle = model.get_submodule(name).register_forward_hook(hook)
    yield
    handle.remove()


@contextmanager
def shut(model: PreTrainedModel, name: str, part: ModuleKind) -> Iterator[None]:
    def hook(_module: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        for start, end in part.rows or ():
            output[..., start:end] = -1000.0
        return output

    handle = model.get_submodule(name).register_forward_hook(hook)
    yield
    handle.remove()


@contextmanager
def scaled(model: PreTrainedModel, name: str, part: ModuleKind, factor: float) -> Iterator[None]:
    def hook(_module: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        for start, end in part.rows or ():
            output[..., start:end] *= factor
        return output

    handle = model.get_submodule(name).register_forward_hook(hook)
    yield
    handle.remove()


def test_phi3_medium_to_the_last_number() -> None:
    config = Phi3Config(**PHI3_MEDIUM)
    discover(config, "warm")
    module_map = discover(config, "phi3-medium")
    assert module_map.parameters == 13_960_238_080
    rows = {kind.name: kind.rows for kind in module_map.kinds if kind.slice_of}
    assert rows == {
        "q_proj": ((0, 5120),),
        "k_proj": ((5120, 6400),),
        "v_proj": ((6400, 7680),),
        "gate_proj": ((0, 17920),),
        "up_proj": ((17920, 35840),),
    }
    groups = {group: [kind.name for kind in module_map.group(group)] for group in GROUPS}
    assert groups == {
        "attention": ["o_proj", "qkv_proj", "q_proj", "k_proj", "v_proj"],
        "mlp": ["gate_up_proj", "gate_proj", "up_proj", "down_proj"],
        "embedding": ["embed_tokens", "lm_head"],
        "other": ["input_layernorm", "post_attention_layernorm", "norm"],
    }
    fused_linears = [
        kind for kind in module_map.kinds if kind.name in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    ]
    assert sum(16 * sum(shape) for kind in fused_linears for shape in kind.shapes) == 55_705_600


def test_a_tied_head_owns_nothing() -> None:
    head = mapped("gpt2").get("lm_head")
    assert head is not None
    assert (head.tied_to, head.parameters, head.shape) == ("wte", 0, (128, 32))


def test_a_leaf_name_of_two_groups_is_qualified() -> None:
    names = {kind.name: kind.group for kind in mapped("gpt2").kinds}
    assert names["attn.c_proj"] == "attention"
    assert names["mlp.c_proj"] == "mlp"


def test_experts_show_as_peft_sees_them() -> None:
    kind = mapped("gpt_oss").get("gate_up_proj")  # stored (experts, in, out)
    assert kind is not None
    assert (kind.class_name, kind.shape, kind.treatments) == ("Parameter", (4, 96, 32), ("lora",))


def test_the_config_is_left_as_it_was() -> None:
    config = tiny_config("phi3")
    before = config.to_dict()
    discover(config, "phi3")
    assert config.to_dict() == before


# Kinds that a short text gives a gradient of zero, although it reaches them.
NO_EFFECT_HERE = {
    "blt": {"local_encoder.cross_attn_layers.q_proj", "local_encoder.cross_attn_layers.k_proj"},  # one patch
    "roc_bert": {"pronunciation_embed", "shape_embed"},  # given padding only
}


@pytest.mark.full
@pytest.mark.parametrize("model_type", TYPES)
def test_lora_reaches_every_kind_that_offers_it(model_type: str) -> None:
    kinds = [k for k in mapped(model_type).kinds if "lora" in k.treatments and k.slice_of is None]
    kinds = [k for k in kinds if k.tied_to is None]
    by_name = [k for k in kinds if k.class_name != "Parameter" and not k.by_weight]
    modules = [name for k in by_name for name in k.modules]
    parameters = [name for k in kinds if k.class_name == "Parameter" for name in k.modules]
    parameters += [f"{name}.weight" for k in kinds if k.by_weight for name in k.modules]
    model = get_peft_model(
        real(tiny_config(model_type)),
        LoraConfig(r=2, target_modules=modules, target_parameters=parameters or None),
    )
    assert sorted(model.targeted_module_names) == sorted(modules)
    assert sorted(model.base_model.targeted_parameter_names) == sorted(parameters)
    backward(model, model_type)
    trained = {
        name.removeprefix("base_model.model.").replace(".base_layer", "")
        for name, parameter in model.named_parameters()
        if "lora_B" in name or "lora_embedding_A" in name  # the factor that starts at zero
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    for kind in kinds:
        if kind.name in NO_EFFECT_HERE.get(model_type, ()):
            continue
        holders = [n.rpartition(".")[0] if kind.class_name == "Parameter" else n for n in kind.modules]
        assert any(name.startswith(f"{holder}.lora_") for holder in holders for name in trained), kind.name


@pytest.mark.full
@pytest.mark.parametrize("model_type", TYPES)
def test_full_training_reaches_every_kind_that_offers_it(model_type: str) -> None:
    kinds = [k for k in mapped(model_type).kinds if "full" in k.treatments and k.tied_to is None]
    tuner = next(k for k in kinds if "lora" in k.treatments)  # PEFT wants one module at least with LoRA
    modules = [name for kind in kinds if kind != tuner for name in kind.modules]
    model = get_peft_model(
        real(tiny_config(model_type)),
        LoraConfig(r=2, target_modules=[tuner.modules[0]], modules_to_save=modules),
    )
    backward(model, model_type)
    trained = {
        name.removeprefix("base_model.model.").partition(".modules_to_save.")[0]
        for name, parameter in model.named_parameters()
        if ".modules_to_save." in name and parameter.grad is not None
    }
    assert [kind.name for kind in kinds if not trained & set(kind.modules)] == [tuner.name]


def backward(model: nn.Module, model_type: str) -> None:
    ids = (torch.arange(16) * 7 % 90 + 5).reshape(2, 8)
    extra = {key: value[:2] for key, value in extra_inputs(tiny_config(model_type)).items()}
    output = model.train()(input_ids=ids, use_cache=False, **extra)
    output.logits.float().logsumexp(-1).mean().backward()


@pytest.mark.parametrize(
    ("model_type", "setting", "value", "fix"),
    [
        ("bert", "is_decoder", False, "is_decoder"),
        ("xlm", "causal", False, "causal"),
        ("xlnet", "attn_type", "bi", 'attn_type.*"uni"'),
        ("gpt_neox", "is_decoder", False, ""),
    ],
)
def test_a_model_whose_tokens_see_later_ones_is_refused(
    model_type: str, setting: str, value: object, fix: str
) -> None:
    config = tiny_config(model_type)
    setattr(config, setting, value)
    with pytest.raises(UserError, match=f"later.*{fix}") if fix else nullcontext():
        assert discover(config, "mine").kinds
