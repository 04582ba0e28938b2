"""What the plan says of ticks that cannot be meant as they stand: nothing is left out in silence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support import tiny
from trainer.config.schema import ModelConfig, RunConfig, Tick
from trainer.models.discovery.discover import discover
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import Plan, make_plan


@pytest.fixture(scope="module")
def maps() -> dict[str, ModuleMap]:
    return {kind: discover(tiny.config(kind), kind) for kind in ("phi3", "gpt2")}


def plan(module_map: ModuleMap, *ticks: Tick, quantization: Any = "none", **adapter: Any) -> Plan:
    config = RunConfig(modules=ticks, model=ModelConfig(name=module_map.model, quantization=quantization))
    training = replace(config.training, max_length=64)
    return make_plan(replace(config, adapter=replace(config.adapter, **adapter), training=training), module_map)


@pytest.mark.parametrize(
    ("tick", "said"),
    [
        (
            Tick("lm_head", "full", layers="0-1"),
            "lm_head is outside the layers, so “0-1” does not apply. Leave layers empty.",
        ),
        (Tick("o_proj", layers="0,77"), "o_proj, layers: There is no layer 77. The last one is 2."),
        (Tick("o_proj", layers="2-1"), "o_proj, layers: “2-1” runs backwards. Write 1-2."),
    ],
)
def test_layers_that_are_not_there_are_refused(tick: Tick, said: str, maps: dict[str, ModuleMap]) -> None:
    found = plan(maps["phi3"], tick, Tick("down_proj", layers="last 2"))
    assert [str(issue) for issue in found.issues] == [f"modules[0]: {said}"]
    assert [receipt.matched for receipt in found.receipts] == [0, 2]


def test_dora_is_refused_on_int8_weights_only(maps: dict[str, ModuleMap]) -> None:
    refused = plan(maps["phi3"], Tick("o_proj"), Tick("down_proj"), quantization="int8", use_dora=True)
    assert [(issue.field, issue.problem) for issue in refused.issues] == [
        ("adapter.use_dora", "DoRA cannot read int8 weights, such as those of o_proj.")
    ]
    assert not plan(maps["phi3"], Tick("lm_head"), quantization="int8", use_dora=True).issues
    assert not plan(maps["phi3"], Tick("o_proj"), quantization="nf4", use_dora=True).issues


def test_pissa_takes_no_more_than_there_is(maps: dict[str, ModuleMap]) -> None:
    ticks = (Tick("o_proj"), Tick("down_proj"))
    assert not plan(maps["phi3"], *ticks, r=32, init_lora_weights="pissa").issues
    refused = plan(maps["phi3"], *ticks, r=33, init_lora_weights="pissa")
    assert [(issue.field, issue.fix) for issue in refused.issues] == [("adapter.r", "Use at most 32.")]


@pytest.mark.parametrize(
    ("model", "name", "said"),
    [
        ("gpt2", "o_proj", "gpt2 has no o_proj: its attention is c_attn and attn.c_proj"),
        ("gpt2", "down_proj", "gpt2 has no down_proj: its MLP is c_fc and mlp.c_proj"),
        ("gpt2", "embed_tokens", "gpt2 has no embed_tokens: its embedding and head are wte and wpe and lm_head"),
        ("gpt2", "q_projj", "gpt2 has no q_projj. Did you mean q_proj?"),
        ("phi3", "fc1", "phi3 has no fc1: its MLP is gate_up_proj and down_proj"),
        ("phi3", "nonsense", "phi3 has no nonsense"),
    ],
)
def test_a_name_that_is_not_there_leads_to_what_plays_its_role(
    model: str, name: str, said: str, maps: dict[str, ModuleMap]
) -> None:
    found = plan(maps[model], Tick(name))
    assert [receipt.note for receipt in found.receipts] == [f"matches nothing: {said}"]
