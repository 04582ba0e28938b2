"""Sets of scenarios on real module maps: what each one trains, what is offered once, equal budgets, own sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.tiny_configs import tiny_config
from trainer.common.errors import InvalidConfig, UserError
from trainer.config.schema import ModelConfig, RunConfig, Tick, TrainingConfig
from trainer.experiments.saved_sets import FILE, OwnSets
from trainer.experiments.scenario_plans import ScenarioPlan, make_scenario_plans
from trainer.models.discovery.discover import discover
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import Plan, make_plan
from trainer.planning.scenarios import SETS, Scenario, starting_ticks

BASE = RunConfig(model=ModelConfig(quantization="none"), training=TrainingConfig(max_length=64))


@pytest.fixture(scope="module")
def maps() -> dict[str, ModuleMap]:
    return {kind: discover(tiny.config(kind), kind) for kind in ("phi3", "llama", "gpt2", "moe")}


def offers(
    module_map: ModuleMap, key: str, equal: bool = False, base: RunConfig = BASE, without: tuple[str, ...] = ()
) -> dict[str, ScenarioPlan]:
    def plan(config: RunConfig) -> Plan:
        return make_plan(config, module_map)

    chosen = next(item for item in SETS if item.key == key).make(module_map)
    return {
        offer.scenario.key: offer for offer in make_scenario_plans(base, chosen, module_map, plan, equal, without)
    }


def test_the_six_on_a_fused_model_have_two_readings(maps: dict[str, ModuleMap]) -> None:
    found = offers(maps["phi3"], "six")
    assert [key for key, offer in found.items() if offer.runs] == ["1", "2", "3", "5", "1w", "2w", "3w", "5w"]
    assert found["4"].same_as == found["3"].scenario.title
    assert found["6"].same_as == found["5"].scenario.title
    assert not offers(maps["phi3"], "six", without=("3",))["4"].runs, "what was left out does not come in by its twin"
    written = found["5w"]
    assert {target.module.rpartition(".")[2] for target in written.plan.targets} == {"o_proj", "down_proj"}
    assert "o_proj and down_proj" in written.scenario.note
    meant = {target.module.rpartition(".")[2] for target in found["5"].plan.targets}
    assert meant == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}


def test_one_reading_where_nothing_is_fused_and_tied_weights_count_once(maps: dict[str, ModuleMap]) -> None:
    found = offers(maps["llama"], "six")
    assert [key for key, offer in found.items() if offer.runs] == ["1", "5"], "head and embedding are one weight"
    assert found["2"].same_as == found["3"].same_as == found["1"].scenario.title


@pytest.mark.parametrize("model", ["phi3", "llama", "gpt2", "moe"])
@pytest.mark.parametrize("key", ["groups", "kinds", "layers"])
def test_every_set_resolves_on_every_model(maps: dict[str, ModuleMap], model: str, key: str) -> None:
    base = replace(BASE, adapter=replace(BASE.adapter, lora_dropout=0.0))
    found = offers(maps[model], key, base=base)
    assert len(found) >= 3
    for offer in found.values():
        assert offer.runs or offer.same_as, [str(issue) for issue in offer.issues]
        assert all(receipt.matched for receipt in offer.plan.receipts)


def test_thirds_share_the_layers_out(maps: dict[str, ModuleMap]) -> None:
    thirds = [
        {part for target in offer.plan.targets for part in target.module.split(".") if part.isdigit()}
        for offer in offers(maps["phi3"], "layers").values()
    ]
    assert thirds == [{"0"}, {"1"}, {"2"}]
    with pytest.raises(UserError, match="thirds"):
        offers(replace(maps["phi3"], layers=2, index={}), "layers")


def test_what_cannot_train_is_not_offered_as_if_it_could(maps: dict[str, ModuleMap]) -> None:
    experts = offers(maps["moe"], "groups")["mlp"]
    assert not experts.runs
    assert any("lora_dropout" in issue.fix for issue in experts.issues)


@pytest.mark.parametrize(
    ("model", "key"), [("phi3", "six"), ("llama", "groups"), ("phi3", "kinds"), ("gpt2", "layers")]
)
def test_an_equal_budget_is_as_close_as_whole_ranks_allow(maps: dict[str, ModuleMap], model: str, key: str) -> None:
    module_map, before = maps[model], offers(maps[model], key)
    budget = max(offer.plan.trainable for offer in before.values() if offer.runs and offer.r)
    for name, offer in offers(module_map, key, equal=True).items():
        if not offer.runs:
            continue
        if offer.r is None:
            assert offer.plan.trainable == before[name].plan.trainable
            assert "no r" in offer.budget
            continue
        adapter = offer.config.adapter
        assert adapter.lora_alpha / adapter.r == pytest.approx(BASE.adapter.lora_alpha / BASE.adapter.r)
        off = abs(offer.plan.trainable - budget)
        for r in (adapter.r - 1, adapter.r + 1):
            other = replace(offer.config, adapter=replace(adapter, r=max(r, 1), lora_alpha=max(r, 1)))
            capped = r > adapter.r and "higher rank" in offer.budget
            assert capped or abs(make_plan(other, module_map).trainable - budget) >= off
        assert (f"{off:,} (" in offer.budget) or off == 0


def test_own_sets_are_kept_by_name(tmp_path: Path) -> None:
    sets = OwnSets(tmp_path)
    sets.add("Mine <b>", "only q", (Tick("q_proj", layers="last 2"),))
    sets.add("Mine <b>", "head", (Tick("lm_head", "full"),))
    sets.add("Mine <b>", "only q", (Tick("q_proj", r=4),))
    again = OwnSets(tmp_path).all()["Mine <b>"]
    assert again == (
        Scenario("head", "head", "", (Tick("lm_head", "full"),)),
        Scenario("only q", "only q", "", (Tick("q_proj", r=4),)),
    )
    assert OwnSets(tmp_path).find("Mine <b>").make(discover(tiny.config("phi3"), "x")) == again
    with pytest.raises(UserError, match="six, groups, kinds, layers, Mine <b>"):
        sets.find("nope")
    sets.remove("Mine <b>")
    assert sets.all() == {}


def test_own_sets_refuse_what_cannot_be(tmp_path: Path) -> None:
    sets = OwnSets(tmp_path)
    for name, title, ticks in (
        ("six", "x", (Tick("q"),)),
        (" ", "x", (Tick("q"),)),
        ("a", "b", ()),
        ("a", "\x07", (Tick("q"),)),
    ):
        with pytest.raises(UserError):
            sets.add(name, title, ticks)
    with pytest.raises(InvalidConfig):
        sets.add("a", "b", (Tick("q", r=0),))
    for damaged in ("{", "[]", '{"a": [{"title": "x"}]}', '{"a": [{"title": "x", "modules": [{"nme": 1}]}]}'):
        (tmp_path / FILE).write_text(damaged)
        with pytest.raises(UserError, match=FILE):
            sets.all()


STARTS = {
    "qwen3_moe": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mamba": {"in_proj"},
    "gpt2": {"c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"},
}


@pytest.mark.parametrize("model_type", STARTS)
def test_what_a_model_starts_with_can_be_trained(model_type: str) -> None:
    module_map = discover(tiny_config(model_type), model_type)
    ticks = starting_ticks(module_map)
    assert {tick.name for tick in ticks} == STARTS[model_type]
    assert make_plan(replace(BASE, modules=ticks), module_map).issues == ()
