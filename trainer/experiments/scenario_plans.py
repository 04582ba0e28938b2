"""What the scenarios of a set mean on one model: a configuration and a plan for each, before anything trains.

Scenarios that train the same weights are offered once, with the reason. With an equal budget, each
scenario's rank is solved for the same trainable count. Arithmetic over the module map alone.
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
"""Makes the plan of a configuration."""


@dataclass(frozen=True)
class Offer:
    """One scenario on one model."""

    scenario: Scenario
    config: RunConfig
    plan: Plan
    same_as: str = ""
    """Title of the scenario that trains the same weights and is offered in its place."""
    budget: str = ""
    """With an equal budget: what it came to, in a sentence."""

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
        """The rank its LoRA has; None where all its modules train in full."""
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


def make_offers(
    base: RunConfig,
    found: Sequence[Scenario],
    module_map: ModuleMap,
    plan: Planner,
    equal_budget: bool = False,
    without: Collection[str] = (),
) -> tuple[Offer, ...]:
    """An offer for every scenario, in their order, but for those whose keys are in `without`.

    All settings but the ticks, and ranks, are those of `base`.
    """
    offers: list[Offer] = []
    for item in found:
        config = replace(base, title=item.title, modules=item.modules)
        offers.append(Offer(item, config, plan(config)))
    offers = [offer for offer in _once(offers) if offer.scenario.key not in without]
    return tuple(_equalise(offers, module_map, plan) if equal_budget else offers)


def _once(offers: list[Offer]) -> list[Offer]:
    """Mark those that train what an earlier one trains."""
    first: dict[frozenset[Any], str] = {}
    marked = []
    for offer in offers:
        weights = frozenset(offer.plan.targets)
        marked.append(offer if offer.issues or weights not in first else replace(offer, same_as=first[weights]))
        if not offer.issues:
            first.setdefault(weights, offer.scenario.title)
    return marked


def _equalise(offers: list[Offer], module_map: ModuleMap, plan: Planner) -> list[Offer]:
    """The budget is the largest count, at the configuration's own rank, among those that have a rank to turn."""
    counts = [offer.plan.trainable for offer in offers if offer.runs and _has_rank(offer.plan)]
    if not counts:
        return [replace(offer, budget="It trains in full: there is no r to solve for.") for offer in offers]
    return [_solve(offer, max(counts), module_map, plan) if offer.runs else offer for offer in offers]


def _solve(offer: Offer, budget: int, module_map: ModuleMap, plan: Planner) -> Offer:
    """The rank whose count comes closest; lora_alpha keeps its ratio to it, so that the scale stays."""
    if not _has_rank(offer.plan):
        return replace(offer, budget=f"It trains in full and has no r. {_difference(offer.plan.trainable, budget)}")
    one, two = (plan(with_rank(offer.config, r)).trainable for r in (1, 2))
    wanted = 1 + (budget - one) / (two - one)  # the count is linear in r
    most = min(MAX_R, max(_ranks(offer, module_map).values()))
    choices = {min(max(rank, 1), most) for rank in (floor(wanted), ceil(wanted))}
    made = [(config := with_rank(offer.config, r), plan(config)) for r in sorted(choices)]
    config, best = min(made, key=lambda pair: abs(pair[1].trainable - budget))
    said = f"r = {config.adapter.r}. {_difference(best.trainable, budget)}"
    if config.adapter.r == most < floor(wanted):
        said += " No module of it can hold a higher rank."
    full = [name for name, rank in _ranks(offer, module_map).items() if rank < config.adapter.r]
    if full:
        said += f" This is more than the full rank of {', '.join(full)}."
    return replace(offer, config=config, plan=best, budget=said)


def with_rank(config: RunConfig, r: int) -> RunConfig:
    """The configuration with one rank for all its LoRAs, and the same scale as before."""
    adapter, root = config.adapter, config.adapter.use_rslora
    alpha = adapter.lora_alpha * (sqrt(r / adapter.r) if root else r / adapter.r)
    ticks = tuple(replace(tick, r=None, lora_alpha=None) for tick in config.modules)
    return replace(config, modules=ticks, adapter=replace(adapter, r=r, lora_alpha=alpha))


def _has_rank(plan: Plan) -> bool:
    return any(target.treatment == "lora" for target in plan.targets)


def _ranks(offer: Offer, module_map: ModuleMap) -> dict[str, int]:
    """The full rank of every kind that has LoRA here: beyond it, a LoRA can express nothing more."""
    found = {}
    for tick in offer.config.modules:
        kind = module_map.get(tick.name)
        if kind is not None and tick.treatment == "lora":
            found[kind.name] = max(min(shape[-2:]) for shape in kind.shapes)
    return found


def _difference(count: int, budget: int) -> str:
    if count == budget:
        return f"Exactly the budget of {budget:,}."
    side = "above" if count > budget else "below"
    return f"{abs(count - budget):,} ({abs(count - budget) / budget:.2%}) {side} the budget of {budget:,}."
