"""The arms of a race: the selections that Suggest tries on a model, with equal budgets of LoRA parameters.

In order of priority: where time is short, those at the end are left out. Arms that only have LoRA get ranks with the
same trainable count. Modules in full come on top of LoRA at the configured rank, and cost what they cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from trainer.common.formatting import size
from trainer.config.schema import RunConfig, Tick
from trainer.experiments.scenario_plans import Planner, ScenarioPlan, make_scenario_plans
from trainer.models.module_map import ModuleMap
from trainer.planning.scenarios import Scenario, groups, kinds, starting_ticks

LINEAR, YOURS = "linear", "yours"
"""Keys of LoRA on every linear, and of the configuration's own ticks."""
LEAST_LAYERS = 3
"""With fewer, there are no two thirds."""


def make_arms(
    base: RunConfig, module_map: ModuleMap, plan: Planner, own: Sequence[Scenario] = ()
) -> tuple[ScenarioPlan, ...]:
    """All arms that suit the model, also those that cannot run or repeat another; `own`: the user's presets.

    Everything but ticks, rank and alpha is that of `base`, except in the arms that try another start of LoRA.
    """
    wanted = [*_selections(base, module_map), *(replace(item, key=f"own:{item.key}") for item in own)]
    order = {scenario.key: place for place, scenario in enumerate(wanted)}
    plain = [item for item in wanted if all(tick.treatment == "lora" for tick in item.modules)]
    mixed = [item for item in wanted if item not in plain]
    budgeted = make_scenario_plans(base, plain, module_map, plan, equal_budget=True)
    arms = [*budgeted, *make_scenario_plans(base, mixed, module_map, plan)]
    arms.sort(key=lambda arm: order[arm.scenario.key])
    return (*arms, *(variant for arm in budgeted if arm.scenario.key == LINEAR for variant in _variants(arm, plan)))


def obstacle(arm: ScenarioPlan) -> str:
    """Why an arm takes no part in the race; empty if it does."""
    if arm.same_as:
        return f"trains the same weights as “{arm.same_as}”"
    if arm.issues:
        return arm.issues[0].problem
    device = arm.plan.device
    if device.is_gpu and device.room and arm.plan.needed > device.room:
        return f"needs {size(arm.plan.needed)}, and {size(device.room)} are free"
    return ""


def _selections(base: RunConfig, module_map: ModuleMap) -> Iterator[Scenario]:
    parts = {item.key: item for item in groups(module_map)}
    plain = {key: _without_experts(parts[key], module_map) for key in ("mlp", "attention") if key in parts}
    ticks = (*plain["attention"].modules, *plain["mlp"].modules) if len(plain) == 2 else starting_ticks(module_map)
    linear = Scenario(LINEAR, "All linear", "LoRA on every linear of attention and MLP.", ticks)
    selections = [linear, *plain.values()]
    selections += [Scenario(YOURS, "Your ticks", "What is ticked now.", base.modules)]
    selections += [*_with_vocabulary(base, linear, parts.get("ends")), *_two_thirds(linear, module_map)]
    selections += [*_alone(module_map), *_one_module(module_map)]
    if LINEAR in parts and len(parts[LINEAR].modules) > len(ticks):
        title, note = "All linear and experts", "LoRA on every linear and on the experts."
        selections += [replace(parts[LINEAR], key="experts", title=title, note=note)]
    selections += [parts["ends"]] if "ends" in parts else []
    yield from (item for item in selections if item.modules)


def _without_experts(scenario: Scenario, module_map: ModuleMap) -> Scenario:
    """LoRA on all experts is large, and PEFT gives it no dropout: an arm of its own."""
    kept = tuple(tick for tick in scenario.modules if _is_module(tick, module_map))
    return replace(scenario, modules=kept)


def _is_module(tick: Tick, module_map: ModuleMap) -> bool:
    kind = module_map.get(tick.name)
    return kind is not None and kind.class_name != "Parameter" and not kind.by_weight


def _with_vocabulary(base: RunConfig, linear: Scenario, ends: Scenario | None) -> Iterator[Scenario]:
    """All linears with embedding and head in full; with each of the two alone only where there are new tokens."""
    if ends is None:
        return
    ends_names = " and ".join(tick.name for tick in ends.modules)
    choices = {f"{LINEAR}+ends": (ends_names, ends.modules)}
    if base.model.new_tokens and len(ends.modules) > 1:
        choices |= {f"{LINEAR}+{tick.name}": (tick.name, (tick,)) for tick in ends.modules}
    for key, (names, ticks) in choices.items():
        note = f"LoRA on every linear, {names} in full."
        yield Scenario(key, f"{linear.title} + {names}", note, linear.modules + ticks)


def _two_thirds(linear: Scenario, module_map: ModuleMap) -> Iterator[Scenario]:
    count = module_map.layers
    if count < LEAST_LAYERS:
        return
    third = round(count / 3)
    layered = [tick for tick in linear.modules if (kind := module_map.get(tick.name)) and kind.layers]
    for key, title, first, last in (
        ("lower", "Lower two thirds", 0, count - third - 1),
        ("upper", "Upper two thirds", third, count - 1),
    ):
        ticks = tuple(replace(tick, layers=f"{first}-{last}") for tick in layered)
        yield Scenario(key, title, f"LoRA on every linear of layers {first}–{last}.", ticks)


def _alone(module_map: ModuleMap) -> list[Scenario]:
    """Each linear of attention and MLP alone, those that end an attention or MLP first."""
    found = [item for item in kinds(module_map) if _is_linear(item.modules[0], module_map)]
    outputs = _outputs(module_map)
    found.sort(key=lambda item: item.key not in outputs)
    return [replace(item, key=f"alone:{item.key}", title=f"{item.title} alone") for item in found]


def _is_linear(tick: Tick, module_map: ModuleMap) -> bool:
    kind = module_map.get(tick.name)
    inside = kind is not None and kind.group in ("attention", "mlp")
    return inside and tick.treatment == "lora" and _is_module(tick, module_map)


def _outputs(module_map: ModuleMap) -> dict[str, str]:
    """The kinds that end an attention or MLP (o_proj and down_proj in most models), and which of both."""
    found: dict[str, str] = {}
    for block in module_map.blocks:
        for part in block.parts if block.stack and block.measured else ():
            if part.role in ("attention", "mlp") and part.rows:
                found |= {name: part.role for cell in part.rows[-1] for name in cell}
    return found


def _one_module(module_map: ModuleMap) -> Iterator[Scenario]:
    """The MLP's output in the middle layer: the least that is worth a try."""
    for name, role in _outputs(module_map).items():
        kind = module_map.get(name)
        if role != "mlp" or kind is None or len(kind.layers) < LEAST_LAYERS or not _is_linear(Tick(name), module_map):
            continue
        layer = kind.layers[len(kind.layers) // 2]
        yield Scenario("one", f"{name} of layer {layer}", "LoRA on one module.", (Tick(name, layers=f"{layer}"),))
        return


def _variants(linear: ScenarioPlan, plan: Planner) -> Iterator[ScenarioPlan]:
    """Other starts and scales of LoRA on the same modules: PiSSA (arXiv:2404.02948), rsLoRA (arXiv:2312.03732)."""
    adapter = linear.config.adapter
    changed = {
        "PiSSA": replace(adapter, init_lora_weights="pissa"),
        "rsLoRA": replace(adapter, use_rslora=True),
    }
    for name, other in changed.items():
        if other == adapter:
            continue
        title = f"{linear.scenario.title}, {name}"
        config = replace(linear.config, title=title, adapter=other)
        note = f"As {linear.scenario.title}, with {name}."
        scenario = Scenario(f"{LINEAR}+{name}", title, note, config.modules)
        yield ScenarioPlan(scenario, config, plan(config), budget=linear.budget)
