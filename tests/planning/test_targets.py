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
    ("tick", "named"),
    [
        (Tick("lm_head", "full", layers="0-1"), ("lm_head", "0-1")),
        (Tick("o_proj", layers="0,77"), ("o_proj", "77", "2")),
        (Tick("o_proj", layers="2-1"), ("o_proj", "2-1", "1-2")),
    ],
)
def test_layers_that_are_not_there_are_refused(
    tick: Tick, named: tuple[str, ...], maps: dict[str, ModuleMap]
) -> None:
    found = plan(maps["phi3"], tick, Tick("down_proj", layers="last 2"))
    (issue,) = found.issues
    assert issue.field == "modules[0]" and all(part in str(issue) for part in named)
    assert [receipt.matched for receipt in found.receipts] == [0, 2]


def test_dora_is_refused_on_int8_weights_only(maps: dict[str, ModuleMap]) -> None:
    refused = plan(maps["phi3"], Tick("o_proj"), Tick("down_proj"), quantization="int8", use_dora=True)
    (issue,) = refused.issues
    assert issue.field == "adapter.use_dora" and "o_proj" in issue.problem
    assert not plan(maps["phi3"], Tick("lm_head"), quantization="int8", use_dora=True).issues
    assert not plan(maps["phi3"], Tick("o_proj"), quantization="nf4", use_dora=True).issues


def test_pissa_takes_no_more_than_there_is(maps: dict[str, ModuleMap]) -> None:
    ticks = (Tick("o_proj"), Tick("down_proj"))
    assert not plan(maps["phi3"], *ticks, r=32, init_lora_weights="pissa").issues
    refused = plan(maps["phi3"], *ticks, r=33, init_lora_weights="pissa")
    (issue,) = refused.issues
    assert issue.field == "adapter.r" and "32" in issue.fix


@pytest.mark.parametrize(
    ("model", "name", "named"),
    [
        ("gpt2", "o_proj", ["c_attn", "attn.c_proj"]),
        ("gpt2", "down_proj", ["c_fc", "mlp.c_proj"]),
        ("gpt2", "embed_tokens", ["wte", "wpe", "lm_head"]),
        ("gpt2", "q_projj", ["q_proj"]),
        ("phi3", "fc1", ["gate_up_proj", "down_proj"]),
        ("phi3", "nonsense", []),
    ],
)
def test_a_name_that_is_not_there_leads_to_what_plays_its_role(
    model: str, name: str, named: list[str], maps: dict[str, ModuleMap]
) -> None:
    (receipt,) = plan(maps[model], Tick(name)).receipts
    other_kinds = {kind.name for kind in maps[model].kinds} | {"q_proj"}
    assert receipt.matched == 0
    said = receipt.note.replace(name, "").replace(",", " ").replace("?", " ").split()
    assert [word for word in said if word in other_kinds] == named
