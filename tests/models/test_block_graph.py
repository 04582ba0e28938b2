"""Blocks of well-known models, against what is known of them and against real ones. All types: test_discover.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.test_discovery import mapped, real
from tests.support.tiny_configs import tiny_config
from trainer.models.block_graph import INPUT, Block, Part
from trainer.models.module_map import ModuleKind
from ui.views.block_picture import picture, ranges


def layers(model_type: str) -> list[Block]:
    return [block for block in mapped(model_type).blocks if block.stack]


def inside(kind: ModuleKind, block: Block) -> list[str]:
    """Modules of a kind in the first layer of a block."""
    return [name for name in kind.modules if name.startswith(f"{block.stack}.{block.layers[0]}.")]


def sketch(block: Block) -> list[str]:
    """`self_attn: q_proj k_proj / o_proj < 0` of each part: rows, and places of the parts that it takes from."""
    return [_line(part) for part in block.parts]


def _line(part: Part) -> str:
    rows = " / ".join(" ".join("+".join(cell) for cell in row) for row in part.rows)
    what = "sum" if part.role == "add" else f"{part.name}: {rows}".removeprefix(": ")
    return f"{what} < {' '.join('x' if take == INPUT else str(take) for take in part.takes)}"


LLAMA_MLP = "mlp: gate_proj up_proj / down_proj"
SERIAL = ["input_layernorm < x", "", "sum < x 1", "post_attention_layernorm < 2", "", "sum < 2 4"]


def serial(attention: str, mlp: str) -> list[str]:
    """The usual layer: norm, attention, sum, norm, MLP, sum."""
    return [SERIAL[0], f"{attention} < 0", SERIAL[2], SERIAL[3], f"{mlp} < 3", SERIAL[5]]


MLA = "self_attn: q_a_proj kv_a_proj_with_mqa / q_a_layernorm kv_a_layernorm / q_b_proj kv_b_proj / o_proj"
KNOWN: dict[str, list[list[str]]] = {
    "phi3": [serial("self_attn: qkv_proj / o_proj", "mlp: gate_up_proj / down_proj")],
    "llama": [serial("self_attn: q_proj k_proj v_proj / o_proj", LLAMA_MLP)],
    "qwen3": [serial("self_attn: q_proj k_proj v_proj / q_norm k_norm / o_proj", LLAMA_MLP)],
    "mixtral": [serial("self_attn: q_proj k_proj v_proj / o_proj", "mlp: gate / gate_up_proj+down_proj")],
    "deepseek_v3": [
        serial(MLA, "mlp: mlp.gate_proj mlp.up_proj / mlp.down_proj"),
        serial(
            MLA,
            "mlp: gate shared_experts.gate_proj shared_experts.up_proj"
            " / gate_up_proj+experts.down_proj shared_experts.down_proj",
        ),
    ],
    "gemma2": [  # norms on both sides of attention and MLP
        [
            "input_layernorm < x",
            "self_attn: q_proj k_proj v_proj / o_proj < 0",
            "post_attention_layernorm < 1",
            "sum < x 2",
            "pre_feedforward_layernorm < 3",
            f"{LLAMA_MLP} < 4",
            "post_feedforward_layernorm < 5",
            "sum < 3 6",
        ]
    ],
    "gpt_neox": [  # attention and MLP side by side, a norm for each
        [
            "input_layernorm < x",
            "attention: query_key_value / dense < 0",
            "post_attention_layernorm < x",
            "mlp: dense_h_to_4h / dense_4h_to_h < 2",
            "sum < x 1 3",
        ]
    ],
    "cohere": [  # side by side behind one norm
        [
            "input_layernorm < x",
            "self_attn: q_proj k_proj v_proj / o_proj < 0",
            f"{LLAMA_MLP} < 0",
            "sum < x 1 2",
        ]
    ],
    "gpt2": [
        [
            "ln_1 < x",
            "attn: c_attn / attn.c_proj < 0",
            "sum < x 1",
            "ln_2 < 2",
            "mlp: c_fc / mlp.c_proj < 3",
            "sum < 2 4",
        ]
    ],
    "opt": [
        [
            "self_attn_layer_norm < x",
            "self_attn: q_proj k_proj v_proj / out_proj < 0",
            "sum < x 1",
            "layers.final_layer_norm < 2",
            "fc1 / fc2 < 3",
            "sum < 2 4",
        ]
    ],
    "bart": [  # norms behind the sums
        [
            "self_attn: q_proj k_proj v_proj / out_proj < x",
            "sum < x 0",
            "self_attn_layer_norm < 1",
            "fc1 / fc2 < 2",
            "sum < 2 3",
            "final_layer_norm < 4",
        ]
    ],
    "jamba": [  # mamba with an MLP, attention with experts
        [
            "input_layernorm < x",
            "mamba: in_proj / x_proj / dt_layernorm b_layernorm c_layernorm / out_proj < 0",
            "sum < x 1",
            "pre_ff_layernorm < 2",
            "feed_forward: gate_proj up_proj / feed_forward.down_proj < 3",
            "sum < 2 4",
        ],
        [
            "input_layernorm < x",
            "self_attn: q_proj k_proj v_proj / o_proj < 0",
            "sum < x 1",
            "pre_ff_layernorm < 2",
            "feed_forward: router / gate_up_proj+experts.down_proj < 3",
            "sum < 2 4",
        ],
    ],
    "falcon_h1": [  # mamba and attention side by side
        [
            "input_layernorm < x",
            "mamba: in_proj / out_proj < 0",
            "self_attn: q_proj k_proj v_proj / o_proj < 0",
            "sum < x 1 2",
            "pre_ff_layernorm < 3",
            "feed_forward: up_proj gate_proj / down_proj < 4",
            "sum < 3 5",
        ]
    ],
}


@pytest.mark.parametrize("model_type", KNOWN)
def test_known_blocks_are_drawn_right(model_type: str) -> None:
    assert [sketch(block) for block in layers(model_type)] == KNOWN[model_type]
    assert all(block.gives == len(block.parts) - 1 for block in layers(model_type))


@pytest.mark.parametrize("model_type", [*KNOWN, "falcon", "gptj", "stablelm", "granite", "olmo2", "bamba"])
def test_the_real_model_depends_as_drawn(model_type: str) -> None:
    """Disturb what each part of a real layer gives: just the parts that are drawn behind it change."""
    module_map = mapped(model_type)
    model = real(tiny_config(model_type))
    for block in layers(model_type):
        modules = [_modules(part, block, module_map.get) for part in block.parts]
        behind: dict[int, set[int]] = {INPUT: set()}
        for number, part in enumerate(block.parts):
            behind[number] = {number}.union(*(behind[take] for take in part.takes))
        plain = _inputs(model, modules)
        for number, names in enumerate(modules):
            if names:
                changed = _inputs(model, modules, disturbed=names[-1])
                moved = {n for n in changed if n != number and not torch.equal(changed[n], plain[n])}
                assert moved == {n for n in changed if n != number and number in behind[n]}, block.parts[number]


def _modules(part: Part, block: Block, kind_of: Any) -> list[str]:
    """The part's modules that are called in the first layer of the block, in the order of their rows."""
    cells = [cell for row in part.rows for cell in row]
    names = [(cell, inside(kind_of(cell[0]), block)[0]) for cell in cells]
    return [name.rpartition(".")[0] if kind_of(cell[0]).class_name == "Parameter" else name for cell, name in names]


def _inputs(model: nn.Module, modules: list[list[str]], disturbed: str = "") -> dict[int, torch.Tensor]:
    """What goes into each part on a text of two tokens, with the output of one module made another."""
    seen: dict[int, torch.Tensor] = {}
    handles = []

    def noted(number: int) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            seen.setdefault(number, next(iter([*args, *kwargs.values()])).detach().clone())

        return hook

    def moved(_module: nn.Module, _args: Any, output: Any) -> Any:
        first, *rest = output if isinstance(output, tuple) else (output,)
        first = first + torch.linspace(-1, 2, first.shape[-1])
        return (first, *rest) if isinstance(output, tuple) else first

    for number, names in enumerate(modules):
        if names:
            handles.append(model.get_submodule(names[0]).register_forward_pre_hook(noted(number), with_kwargs=True))
    if disturbed:
        handles.append(model.get_submodule(disturbed).register_forward_hook(moved))
    with torch.no_grad():
        model(input_ids=torch.tensor([[11, 23]]), use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def test_before_and_after_the_layers() -> None:
    first, _, last = mapped("gpt2").blocks
    assert [sketch(first), sketch(last)] == [["wte < ", "wpe < ", "sum < 0 1"], ["ln_f < x", "lm_head < 0"]]


def test_a_picture_is_plain_json_with_the_shapes_of_its_layers() -> None:
    sections = json.loads(json.dumps(picture(mapped("deepseek_v3"))))
    assert [(section["stack"], section["count"]) for section in sections] == [("", 0), ("model.layers", 2), ("", 0)]
    dense, experts = sections[1]["patterns"]
    assert (dense["title"], experts["title"]) == ("0", "1")
    units = [unit for part in experts["parts"] for row in part["rows"] for cell in row for unit in cell]
    shown = {unit["name"]: (unit["shape"], unit["holder"]) for unit in units}
    assert shown["q_a_proj"] == ("16×32", "")
    assert shown["gate_up_proj"] == ("4×96×32", "experts × 4")
    head = picture(mapped("gemma2"))[-1]["patterns"][0]["parts"][1]["rows"][0][0][0]
    assert (head["name"], head["tied"]) == ("lm_head", "embed_tokens")


def test_ranges_read_as_people_write_them() -> None:
    assert ranges((0, 1, 2, 5)) == "0–2, 5"
    assert ranges(tuple(range(3, 48, 4))) == "every 4th from 3 to 47"
