"""Micro-batches: how many rows of how many tokens are in memory at once, and how many layers recompute.

A step's loss is a sum over its examples, so the fastest micro-batch that fits is taken. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from trainer.common.devices import Device
from trainer.config.schema import RunConfig, TrainingConfig
from trainer.models.module_map import ModuleMap
from trainer.planning.memory.peak import Estimate
from trainer.planning.row_width import packs, widest
from trainer.planning.schedule import Size, batch_size

MEMORY_RESERVE = 0.15
"""Share of the device's memory to leave free, for fragmentation and errors of the estimate."""
WEIGHT_READ_TOKENS = {"nf4": 400, "int8": 400, "fp8": 60, "none": 60}
"""Cost of reading (NF4: dequantizing) all weights once per micro-batch, in tokens of compute time. From bandwidth and
matmul rates of current GPUs (280 to 480 for NF4); only used to rank micro-batch sizes."""
WORTHWHILE_SAVING = 0.02
"""Share of a step's time that another micro-batch size must save."""
MAX_ROWS = 4096
"""Most rows of a micro-batch."""
PACKED_FILL = 0.95
"""Share of a packed row that holds tokens, about: best fit decreasing leaves little room."""
VARIATION = (0.9, 1.0, 1.1)
"""Steps differ in their tokens: rows of a step, relative to their mean."""


class MicroBatches(NamedTuple):
    """The micro-batches of a step."""

    rows: int
    per_step: int
    """Micro-batches per step; about as many where rows are packed."""
    every_n_layers: int
    """Every n-th layer recomputes its activations; 0 means none."""
    why: str
    why_checkpointing: str


@dataclass(frozen=True)
class _Step:
    """The rows of one optimizer step, as far as they are known before the examples are packed."""

    rows: tuple[int, ...]
    """Of a small, a usual and a large step."""
    tokens: float
    """Positions to compute per row."""
    packed: bool
    """Micro-batches all have the same number of rows, the last ones of a step perhaps empty."""

    @classmethod
    def of(cls, training: TrainingConfig, width: int, data: Size, packed: bool) -> _Step:
        examples, length = batch_size(training), data.length or training.max_length / 2
        if not packed:
            return cls((examples,), length, packed)
        full = examples * length / (width * PACKED_FILL)
        return cls(tuple(min(examples, max(1, ceil(full * share))) for share in VARIATION), width, packed)

    def sizes(self) -> list[int]:
        """Rows of a micro-batch to consider: those that divide the usual step well."""
        usual = self.rows[len(self.rows) // 2]
        counts = range(1, usual + 1)
        sizes = {ceil(usual / count) for count in counts if self.packed or usual % count == 0}
        return sorted(size for size in sizes if size <= MAX_ROWS)

    def count(self, micro: int) -> int:
        """Micro-batches of `micro` rows in the usual step."""
        return ceil(self.rows[len(self.rows) // 2] / micro)

    def time(self, micro: int, weights: float) -> float:
        """Relative time of a step with micro-batches of `micro` rows; `weights`: tokens' worth of reading them."""
        counts = [ceil(rows / micro) for rows in self.rows]
        computed = [count * micro if self.packed else rows for count, rows in zip(counts, self.rows, strict=True)]
        return (weights * sum(counts) + self.tokens * sum(computed)) / len(counts)


def choose_micro_batches(
    config: RunConfig, module_map: ModuleMap, device: Device, costs: Callable[[bool], Estimate], data: Size
) -> tuple[MicroBatches, Estimate]:
    """The fastest micro-batches that fit, and the memory estimate with them; among equals, those as configured or the
    smallest.

    `costs`: the estimate without checkpointing (False) and with it (True).
    """
    training = config.training
    width, layers = widest(training, device.is_gpu, data), max(1, module_map.layers)
    free = _may_change(config, module_map, device)
    step = _Step.of(training, width, data, free and packs(training))
    sizes = step.sizes() if free else [training.per_device_train_batch_size]
    choices = _checkpointing_choices(training.activation_checkpointing, layers, device)
    found = []
    for every in choices:
        recomputed = len(range(0, layers, every)) / layers if every else 0.0
        for rows in sizes:
            needs = costs(every > 0).with_performance(every, _accumulation(training, step, rows, free))
            if needs.total(rows, width) > device.room * (1 - MEMORY_RESERVE):
                break  # more rows need more
            time = (2 + recomputed) * step.time(rows, WEIGHT_READ_TOKENS[config.model.quantization])
            found.append((time, rows, every))
    # if nothing fits, or free memory is unknown, as little as possible
    every, rows = _best(found, training.per_device_train_batch_size) if found else (choices[-1], sizes[0])
    count = _accumulation(training, step, rows, free)
    why = _why(config, free, device, step, rows, width)
    micro = MicroBatches(
        rows, count, every, why, _why_checkpointing(training.activation_checkpointing, every, device)
    )
    return micro, costs(every > 0).with_performance(every, count)


def _accumulation(training: TrainingConfig, step: _Step, rows: int, free: bool) -> int:
    return step.count(rows) if free else training.gradient_accumulation_steps


def _best(found: list[tuple[float, int, int]], configured: int) -> tuple[int, int]:
    """(every_n_layers, rows) of the fastest."""
    quickest = min(time for time, _, _ in found)
    good = [item for item in found if item[0] <= quickest * (1 + WORTHWHILE_SAVING)]
    _, rows, every = min(good, key=lambda item: (item[1] != configured, item[1], item[0]))
    return every, rows


def _checkpointing_choices(way: str, layers: int, device: Device) -> list[int]:
    """Candidates for `every_n_layers`, from most to least memory."""
    if way == "auto":
        return [0, *range(min(layers, 8), 0, -1)] if device.room else [1]
    return [1] if way == "on" else [0]


def _may_change(config: RunConfig, module_map: ModuleMap, device: Device) -> bool:
    """Whether the micro-batch size may change: on a GPU with known memory, if a step's loss is one sum."""
    dense = module_map.forward.experts_per_token == 1  # a router's loss is a mean over each micro-batch
    return config.training.micro_batches == "auto" and device.is_gpu and device.room > 0 and dense


def _why_checkpointing(way: str, every: int, device: Device) -> str:
    if way != "auto":
        return "every layer recomputes, as set" if every else "off, as set"
    if every == 0:
        return "off: all activations fit into memory"
    if every > 1:
        return f"one layer in {every} recomputes: the activations of the others fit into memory"
    return "every layer recomputes: " + (
        "more activations do not fit into memory" if device.room else "free memory is unknown"
    )


def _why(config: RunConfig, free: bool, device: Device, step: _Step, rows: int, width: int) -> str:
    training, count = config.training, step.count(rows)
    own = f"{training.per_device_train_batch_size} × {training.gradient_accumulation_steps}"
    if step.packed:
        return (
            f"{rows} rows of {width:,} tokens, about {count} times a step, hold its {batch_size(training)} examples: "
            "the fastest that fits into memory"
        )
    if free:
        if rows != training.per_device_train_batch_size:
            return f"{rows} × {count} instead of {own}: the same batch, and the fastest that fits into memory"
        return f"{own}: other sizes do not fit, or save nothing"
    if training.micro_batches == "off":
        return f"{own}, as set"
    if not device.is_gpu:
        return f"{own}: other sizes only help on a GPU"
    return f"{own}: other sizes would change the loss, or free memory is unknown"
