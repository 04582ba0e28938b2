"""A configuration without some of its kinds, whose trainable parameters go to the ranks of the others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from math import sqrt

from trainer.common.errors import UserError
from trainer.config.schema import AdapterConfig, RunConfig, Tick
from trainer.models.module_map import ModuleMap
from trainer.planning.parameter_counts import trainable_count
from trainer.planning.targets import resolve


def without(config: RunConfig, module_map: ModuleMap, names: Collection[str]) -> RunConfig:
    """`config` without the kinds `names`. All ranks grow by one factor, so that about as many parameters train.

    The scale of each LoRA's update stays. Raises UserError if `names` has none of its kinds, or all of them.
    """
    kept = tuple(tick for tick in config.modules if not _is_named(tick, module_map, names))
    if len(kept) == len(config.modules):
        raise UserError("None of these kinds was trained.", "Choose kinds that this run trained.", "data")
    if not kept:
        raise UserError("Without these kinds, nothing would be trained.", "Leave out fewer.", "data")
    rest = replace(config, modules=kept)
    lora = replace(rest, modules=tuple(tick for tick in kept if tick.treatment == "lora"))
    free, by_rank = _count(config, module_map) - _count(rest, module_map), _count(lora, module_map)
    return _grown(rest, 1 + free / by_rank) if by_rank else rest


def _is_named(tick: Tick, module_map: ModuleMap, names: Collection[str]) -> bool:
    """Whether a tick is of one of the kinds; one that is tied to another trains the other's weight."""
    kind = module_map.get(tick.name)
    return tick.name in names or (kind is not None and kind.tied_to in names)


def _count(config: RunConfig, module_map: ModuleMap) -> int:
    """Trainable parameters, without those of new tokens, which stay."""
    targets = resolve(config, module_map).targets
    return sum(trainable_count(target, config.adapter) for target in targets if target.treatment != "rows")


def _grown(config: RunConfig, factor: float) -> RunConfig:
    adapter = config.adapter
    own = [_grown_tick(tick, adapter, factor) for tick in config.modules]
    r, alpha = _scaled(adapter.r, adapter.lora_alpha, adapter, factor)
    return replace(config, modules=tuple(own), adapter=replace(adapter, r=r, lora_alpha=alpha))


def _grown_tick(tick: Tick, adapter: AdapterConfig, factor: float) -> Tick:
    if tick.treatment != "lora" or (tick.r is None and tick.lora_alpha is None):
        return tick
    r, alpha = _scaled(tick.r or adapter.r, tick.lora_alpha or adapter.lora_alpha, adapter, factor)
    return replace(tick, r=r, lora_alpha=alpha)


def _scaled(r: int, alpha: float, adapter: AdapterConfig, factor: float) -> tuple[int, float]:
    """A rank times `factor`, rounded down, and the alpha that leaves the scale as it was."""
    larger = int(r * factor)
    return larger, alpha * (sqrt(larger / r) if adapter.use_rslora else larger / r)
