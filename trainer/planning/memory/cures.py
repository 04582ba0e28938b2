"""What makes a run fit that needs more memory than the device has: each way is planned before it is offered."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import combinations
from typing import NamedTuple

from trainer.common.errors import Cure, Value
from trainer.common.formatting import size
from trainer.config import overrides, validation
from trainer.config.schema import RunConfig
from trainer.planning.schedule import batch_size

SHORTEST_OFFERED = 128
"""Tokens. A shorter maximum length would cut most examples."""
MOST = 3
"""Ways that are offered."""
IDLE = 0.02
"""Share of the memory below which a change does not count."""
BATCH, ACCUMULATION = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
LENGTH, RANK = "training.max_length", "adapter.r"

Changes = Mapping[str, Value]


class Cures(NamedTuple):
    """The ways found; if there are none, the changes that need the least memory, with its bytes."""

    found: tuple[Cure, ...]
    least: Changes
    least_bytes: int


def find_cures(
    config: RunConfig, room: int, quantizes: bool, needs: Callable[[RunConfig], int], fits: Callable[[RunConfig], int]
) -> Cures:
    """Ways to fit `config` into `room` bytes: single changes; if none is enough, two together; else all of them.

    `quantizes`: whether NF4 can be chosen. `needs`: a quick estimate of a configuration's bytes. `fits`: the bytes of
    its whole plan, 0 if it does not fit or cannot start.
    """

    @cache
    def bytes_with(*changes: tuple[str, Value]) -> int:
        changed = changed_config(config, dict(changes))
        return sys.maxsize if changed is None else needs(changed)

    def is_enough(changes: Changes) -> bool:
        return bytes_with(*changes.items()) <= room

    singles = [way for way in _singles(config, quantizes) if way]
    strongest = {path: value for way in singles for path, value in way[-1].items()}
    if not is_enough(strongest):
        least = _without_idle(strongest, lambda changes: bytes_with(*changes.items()))
        return Cures((), least, bytes_with(*least.items()))
    pairs = ([{**one[-1], **step} for step in other] for one, other in combinations(singles, 2))
    for ways in (singles, pairs, [[strongest]]):
        found: list[Cure] = []
        for way in ways:
            if not is_enough(way[-1]):
                continue
            gentlest = bisect_left(way, True, key=is_enough)
            if (changed := changed_config(config, way[gentlest])) and (planned := fits(changed)):
                found.append(Cure(way[gentlest], f"needs {size(planned)}"))
            if len(found) == MOST:
                break
        if found:
            return Cures(tuple(found), {}, 0)
    return Cures((), strongest, bytes_with(*strongest.items()))


def _without_idle(changes: Changes, bytes_with: Callable[[Changes], int]) -> Changes:
    """The changes without those that save next to nothing."""
    least, kept = bytes_with(changes), dict(changes)
    for path in changes:
        others = {name: value for name, value in kept.items() if name != path}
        if path != ACCUMULATION and bytes_with(others) <= least * (1 + IDLE):
            kept = others
    return kept if BATCH in kept else {name: value for name, value in kept.items() if name != ACCUMULATION}


def changed_config(config: RunConfig, changes: Changes) -> RunConfig | None:
    """The configuration with these changes; None if they are invalid."""
    changed, issues, _ = validation.repair(overrides.apply(config.to_json(), changes))
    return None if issues else changed


def _singles(config: RunConfig, quantizes: bool) -> Iterator[list[Changes]]:
    """Settings that need less memory, each from its gentlest step to its strongest."""
    training = config.training
    yield [{"training.activation_checkpointing": "auto"}] if training.activation_checkpointing == "off" else []
    yield [{"training.micro_batches": "auto"}] if training.micro_batches == "off" else []
    yield [{"model.quantization": "nf4"}] if quantizes and config.model.quantization != "nf4" else []
    yield list(_batches(config))
    yield list(_lengths(config))
    yield list(_ranks(config))


def _batches(config: RunConfig) -> Iterator[Changes]:
    """Smaller micro-batches with as many examples a step."""
    training, whole = config.training, batch_size(config.training)
    rows = training.per_device_train_batch_size
    for smaller in range(rows - 1, 0, -1):
        if whole % smaller == 0 and whole // smaller <= 4096:
            yield {BATCH: smaller, ACCUMULATION: whole // smaller}


def _lengths(config: RunConfig) -> Iterator[Changes]:
    length = config.training.max_length // 2
    while length >= SHORTEST_OFFERED:
        yield {LENGTH: length}
        length //= 2


def _ranks(config: RunConfig) -> Iterator[Changes]:
    rank = config.adapter.r // 2
    while rank >= 1 and any(tick.treatment == "lora" for tick in config.modules):
        yield {RANK: rank}
        rank //= 2
