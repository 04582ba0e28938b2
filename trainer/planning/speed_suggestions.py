"""What would make a run faster but changes what it learns: offered with its price, never applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from trainer.common.errors import Issue
from trainer.common.formatting import size
from trainer.config.schema import RunConfig
from trainer.planning.memory.peak import Estimate
from trainer.planning.micro_batches import MEMORY_RESERVE, WEIGHT_READ_TOKENS
from trainer.planning.performance import PerformanceSettings

WORTHWHILE = 0.02
"""Share of the memory or of a step's time that a suggestion must save."""
DEQUANTIZED = {"nf4": "NF4", "int8": "LLM.int8()"}
"""Quantizations whose weights are dequantized for every product."""


class Choice(NamedTuple):
    """A configuration's performance settings on a GPU, and what they need."""

    performance: PerformanceSettings
    costs: Estimate
    width: int
    """Tokens of a row."""

    @property
    def needed(self) -> int:
        """Bytes at the peak."""
        return self.costs.total(self.performance.per_device_train_batch_size, self.width)

    @property
    def time(self) -> float:
        """Relative time per token: computing it, and its share of reading the weights."""
        layers, every = max(1, self.costs.module_map.layers), self.performance.every_n_layers
        recomputed = len(range(0, layers, every)) / layers if every else 0.0
        return (2 + recomputed) * (1 + self._read / self._tokens)

    @property
    def dequantizing(self) -> float:
        """Share of a step's time that dequantizing the weights takes."""
        return (self._read - WEIGHT_READ_TOKENS["none"]) / (self._read + self._tokens)

    @property
    def _read(self) -> int:
        return WEIGHT_READ_TOKENS[self.costs.config.model.quantization]

    @property
    def _tokens(self) -> int:
        return self.performance.per_device_train_batch_size * self.width


def speed_suggestions(now: Choice, room: int, choose: Callable[[RunConfig], Choice]) -> Iterator[Issue]:
    """Suggestions for a run on a GPU with `room` bytes; `choose`: the choice for another configuration."""
    config = now.costs.config
    if config.adapter.lora_dropout > 0:
        without = choose(replace(config, adapter=replace(config.adapter, lora_dropout=0.0)))
        if price := _price(now, without):
            problem = f"Dropout takes memory and time: without it, {price}."
            fix = "Set lora_dropout to 0; this changes what the run learns."
            yield Issue("adapter.lora_dropout", problem, fix, {"adapter.lora_dropout": 0.0})
    module_map = now.costs.module_map
    may_fit = module_map.checkpoint is None and module_map.parameters * now.costs.setup.width < room
    if config.model.quantization in DEQUANTIZED and may_fit:
        plain = choose(replace(config, model=replace(config.model, quantization="none")))
        fits = plain.needed <= room * (1 - MEMORY_RESERVE)
        if fits and plain.time < now.time * (1 - WORTHWHILE):
            yield _unquantized(now, plain, room)


def _price(now: Choice, other: Choice) -> str:
    """What the other choice saves; empty if it is not worthwhile."""
    rows, others = (choice.performance.per_device_train_batch_size for choice in (now, other))
    if (rows, now.performance.every_n_layers) == (others, other.performance.every_n_layers):
        saved = now.needed - other.needed
        return (
            f"this needs {size(other.needed)} instead of {size(now.needed)}"
            if saved > WORTHWHILE * now.needed
            else ""
        )
    if other.time >= now.time * (1 - WORTHWHILE):
        return ""
    faster = f"about {100 * (1 - other.time / now.time):.0f} % less time for a token (estimated)"
    return f"{_layout(other.performance)} fit instead of {_layout(now.performance)}, {faster}"


def _layout(performance: PerformanceSettings) -> str:
    """Rows and recomputation as a phrase."""
    rows, every = performance.per_device_train_batch_size, performance.every_n_layers
    recomputes = {0: "nothing recomputed", 1: "every layer recomputed"}.get(every, f"one layer in {every} recomputed")
    return f"{rows} row{'s' * (rows > 1)} at a time with {recomputes}"


def _unquantized(now: Choice, plain: Choice, room: int) -> Issue:
    name = DEQUANTIZED[now.costs.config.model.quantization]
    problem = (
        f"{name} takes about {100 * now.dequantizing:.0f} % of a step for dequantizing (estimated), and trains on "
        f"rounded weights. Unquantized weights fit, too: {size(plain.needed)} of {size(room)}."
    )
    fix = "Set quantization to none; losses differ."
    return Issue("model.quantization", problem, fix, {"model.quantization": "none"})
