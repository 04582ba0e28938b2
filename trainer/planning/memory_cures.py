"""What makes a run fit that needs more memory than the device has: each way is planned before it is offered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

from trainer.common.errors import Cure, Value
from trainer.common.formatting import size
from trainer.config import overrides, validation
from trainer.config.schema import RunConfig
from trainer.planning.schedule import batch_size

SHORTEST_OFFERED = 64
"""Tokens. A shorter maximum length would cut most examples."""
MOST = 3
"""Ways that are offered."""
BATCH, ACCUMULATION = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
LENGTH, RANK = "training.max_length", "adapter.r"

Changes = Mapping[str, Value]


class Cures(NamedTuple):
    """The ways found, and the changes that need the least memory of all that were tried, with its bytes."""

    found: tuple[Cure, ...]
    least: Changes
    least_bytes: int


def find_cures(
    config: RunConfig, room: int, quantizes: bool, needs: Callable[[RunConfig], int], fits: Callable[[RunConfig], int]
) -> Cures:
    """Ways to fit `config` into `room` bytes: single changes; if there are none, two together; else all together.

    `quantizes`: whether NF4 can be chosen. `needs`: a quick estimate of a configuration's bytes. `fits`: the bytes of
    its whole plan, 0 if it does not fit or cannot start.
    """
    found: list[Cure] = []
    least, least_bytes = dict[str, Value](), needs(config)
    for ways in _levels(config, quantizes):
        for way in ways:
            for changes in way:
                changed = changed_config(config, changes)
                if changed is None:
                    continue
                if (estimated := needs(changed)) < least_bytes:
                    least, least_bytes = dict(changes), estimated
                if estimated <= room and (planned := fits(changed)):
                    found.append(Cure(changes, f"needs {size(planned)}"))
                    break  # the gentlest of this way
        if found:
            break
    return Cures(tuple(found[:MOST]), least, least_bytes)


def changed_config(config: RunConfig, changes: Changes) -> RunConfig | None:
    """The configuration with these changes; None if they are invalid."""
    changed, issues, _ = validation.repair(overrides.apply(config.to_json(), changes))
    return None if issues else changed


def _levels(config: RunConfig, quantizes: bool) -> Iterator[list[list[Changes]]]:
    """Ways with one change, with two, with all; each way from its gentlest step to its strongest."""
    singles = [way for way in _singles(config, quantizes) if way]
    yield singles
    yield [[{**one[-1], **step} for step in other] for one, other in combinations(singles, 2)]
    strongest = {path: value for way in singles for path, value in way[-1].items()}
    yield [[strongest]]


def _singles(config: RunConfig, quantizes: bool) -> Iterator[list[Changes]]:
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
