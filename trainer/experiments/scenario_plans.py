"""What the scenarios of a set mean on one model: a configuration and a plan for each, before anything trains.

Of scenarios that train the same weights, only the first one runs. With an equal budget, each scenario's rank is
chosen for the same trainable count. Computed from the module map alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, sqrt
from typing import Any

from trainer.common.errors import Issue
from trainer.config.schema import RunConfig
from trainer.config.validation import validate
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import Plan
from trainer.planning.scenarios import Scenario

MAX_R = 4096
Planner = Callable[[RunConfig], Plan]
"""Makes the plan for a configuration."""


@dataclass(frozen=True)
class ScenarioPlan:
    """One scenario on one model: its configuration and its plan."""

    scenario: Scenario
    config: RunConfig
    plan: Plan
    same_as: str = ""
    """Title of an earlier scenario that trains the same weights, and runs instead."""
    budget: str = ""
    """With an equal budget: the result, in a sentence."""

    @property
    def issues(self) -> tuple[Issue, ...]:
        """What keeps it from training."""
        return (*validate(self.config), *self.plan.issues)

    @property
    def runs(self) -> bool:
        """Whether it becomes a run."""
        return not self.same_as and not self.issues

    @property
    def r(self) -> int | None:
        """The rank of its LoRA; None if all its modules train in full."""
        return self.config.adapter.r if _has_rank(self.plan) else None

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.scenario.key,
            "title": self.scenario.title,
            "note": self.scenario.note,
            "runs": self.runs,
            "same_as": self.same_as,
            "r": self.r,
            "budget": self.budget,
            "trainable": self.plan.trainable,
            "adapter_bytes": self.plan.adapter_bytes,
            "memory": sum(self.plan.memory.values()),
            "receipts": self.plan.to_json()["receipts"],
            "issues": [issue.to_json() for issue in self.issues],
        }


def make_scenario_plans(
    base: RunConfig,
    scenarios: Sequence[Scenario],
    module_map: ModuleMap,
    plan: Planner,
    equal_budget: bool = False,
    without: Collection[str] = (),
) -> tuple[ScenarioPlan, ...]:
    """A plan for every scenario, in order, except those whose keys are in `without`.

    All settings other than ticks and ranks are those of `base`.
    """
    plans: list[ScenarioPlan] = []
    for scenario in scenarios:
        config = replace(base, title=scenario.title, modules=scenario.modules)
        plans.append(ScenarioPlan(scenario, config, plan(config)))
    plans = [planned for planned in _mark_repeated(plans) if planned.scenario.key not in without]
    return tuple(_equalize(plans, module_map, plan) if equal_budget else plans)


def _mark_repeated(plans: list[ScenarioPlan]) -> list[ScenarioPlan]:
    """Mark scenarios that train the same weights as an earlier one."""
    first: dict[frozenset[Any], str] = {}
    marked = []
    for planned in plans:
        weights = frozenset(planned.plan.targets)
        marked.append(planned if planned.issues or weights not in first else replace(planned, same_as=first[weights]))
        if not planned.issues:
            first.setdefault(weights, planned.scenario.title)
    return marked


def _equalize(plans: list[ScenarioPlan], module_map: ModuleMap, plan: Planner) -> list[ScenarioPlan]:
    """The budget is the largest trainable count, at the configured rank, among scenarios that have LoRA."""
    counts = [planned.plan.trainable for planned in plans if planned.runs and _has_rank(planned.plan)]
    if not counts:
        return [replace(planned, budget="Trained in full: no rank to choose.") for planned in plans]
    return [_solve(planned, max(counts), module_map, plan) if planned.runs else planned for planned in plans]


def _solve(planned: ScenarioPlan, budget: int, module_map: ModuleMap, plan: Planner) -> ScenarioPlan:
    """Choose the rank whose count is closest to the budget; lora_alpha changes with it, so the scale stays."""
    if not _has_rank(planned.plan):
        return replace(
            planned, budget=f"It trains in full and has no r. {_difference(planned.plan.trainable, budget)}"
        )
    one, two = (plan(with_rank(planned.config, r)).trainable for r in (1, 2))
    ideal = 1 + (budget - one) / (two - one)  # the count is linear in r
    highest = min(MAX_R, max(_ranks(planned, module_map).values()))
    choices = {min(max(rank, 1), highest) for rank in (floor(ideal), ceil(ideal))}
    candidates = [(config := with_rank(planned.config, r), plan(config)) for r in sorted(choices)]
    config, best = min(candidates, key=lambda pair: abs(pair[1].trainable - budget))
    result = f"r = {config.adapter.r}. {_difference(best.trainable, budget)}"
    if config.adapter.r == highest < floor(ideal):
        result += " None of its modules has a higher rank."
    full = [name for name, rank in _ranks(planned, module_map).items() if rank < config.adapter.r]
    if full:
        result += f" This exceeds the full rank of {', '.join(full)}."
    return replace(planned, config=config, plan=best, budget=result)


def with_rank(config: RunConfig, r: int) -> RunConfig:
    """The configuration with rank `r` for every LoRA, at the same scale as before."""
    adapter, root = config.adapter, config.adapter.use_rslora
    alpha = adapter.lora_alpha * (sqrt(r / adapter.r) if root else r / adapter.r)
    ticks = tuple(replace(tick, r=None, lora_alpha=None) for tick in config.modules)
    return replace(config, modules=ticks, adapter=replace(adapter, r=r, lora_alpha=alpha))


def _has_rank(plan: Plan) -> bool:
    return any(target.treatment == "lora" for target in plan.targets)


def _ranks(planned: ScenarioPlan, module_map: ModuleMap) -> dict[str, int]:
    """The full rank of every kind with LoRA: a higher LoRA rank cannot express anything more."""
    ranks = {}
    for tick in planned.config.modules:
        kind = module_map.get(tick.name)
        if kind is not None and tick.treatment == "lora":
            ranks[kind.name] = max(min(shape[-2:]) for shape in kind.shapes)
    return ranks


def _difference(count: int, budget: int) -> str:
    if count == budget:
        return f"Exactly the budget of {budget:,}."
    side = "above" if count > budget else "below"
    return f"{abs(count - budget):,} ({abs(count - budget) / budget:.2%}) {side} the budget of {budget:,}."
