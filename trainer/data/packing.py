"""Lays the examples of an optimizer step out as micro-batches of rows: packed, or one example per row.

Best fit decreasing finds how few rows of the maximum length will do, then the rows are made about equally long.
A step holds the same examples packed and unpacked, so steps, losses and learning rates stay what they were.

Our own: TRL packs the whole data set in advance, which changes the batches, and with them the number of steps.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer.planning.row_width import row_width

MIN_SAVING = 0.1
"""Share of all positions that packing must save to be worthwhile where it does not also give rows a fixed width."""
SAMPLED_STEPS = 100
GROUPED_BATCHES = 50
"""Batches that transformers' length grouping sorts together."""

MicroBatch = list[list[int]]
"""For each row, the places of its examples within the step."""


@dataclass(frozen=True)
class Layout:
    """How a step's examples become micro-batches."""

    rows: int
    """Rows of a micro-batch, at most."""
    max_length: int
    """Tokens of a row, at most."""
    packed: bool = False
    """Several examples share a row; else each has its own."""
    fixed: bool = False
    """Few shapes, for a GPU: packed micro-batches all have `rows` rows of the same width, the last ones of a step
    perhaps empty; others have one of a few widths. Else a micro-batch is as wide as its longest row."""

    def micro_batches(self, lengths: Sequence[int]) -> list[MicroBatch]:
        """The micro-batches of a step with examples of these lengths, each at most `max_length`."""
        made = rows(lengths, self.max_length) if self.packed else [[place] for place in range(len(lengths))]
        parts = [made[at : at + self.rows] for at in range(0, len(made), self.rows)]
        if self.packed and self.fixed:
            parts[-1] = parts[-1] + [[] for _ in range(self.rows - len(parts[-1]))]
        return parts

    def width(self, longest: int) -> int:
        """Tokens per row of a micro-batch whose longest row has `longest`."""
        if not self.fixed:
            return longest
        return row_width(longest, self.max_length, self.packed)

    def positions(self, lengths: Sequence[int]) -> int:
        """Positions, padding included, that a step with examples of these lengths computes."""
        parts = self.micro_batches(lengths)
        return sum(
            len(part) * self.width(max(sum(lengths[place] for place in row) for row in part)) for part in parts
        )


def rows(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Places of a step's examples, row by row; no row is longer than `max_length`."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    fitted = _best_fit(order, lengths, max_length)
    balanced = _balanced(order, lengths, len(fitted))
    width = max(sum(lengths[place] for place in row) for row in balanced)
    return balanced if width <= max_length else fitted


def _best_fit(order: Sequence[int], lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Best fit decreasing: each example goes where it leaves the least room."""
    found: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is left, number of the row), rising
    for place in order:
        at = bisect.bisect_left(room, (lengths[place], -1))
        if at == len(room):
            found.append([place])
            bisect.insort(room, (max_length - lengths[place], len(found) - 1))
            continue
        left, row = room.pop(at)
        found[row].append(place)
        bisect.insort(room, (left - lengths[place], row))
    return found


def _balanced(order: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    """The longest first, each into the row that is the shortest so far."""
    found: list[list[int]] = [[] for _ in range(count)]
    sums = [0] * count
    for place in order:
        row = sums.index(min(sums))
        found[row].append(place)
        sums[row] += lengths[place]
    return found


def fill(lengths: np.ndarray, batch: int, layout: Layout, seed: int = 0) -> dict[str, float]:
    """Share of positions that hold tokens rather than padding: in random, in length-grouped and in packed steps.

    Measured on a sample of steps of `batch` examples; `layout.packed` does not matter.
    """
    lengths = np.minimum(lengths, layout.max_length)
    shuffled = np.random.default_rng(seed).permutation(lengths)[: batch * SAMPLED_STEPS]
    steps = _parts(shuffled, batch)
    groups = [np.sort(group)[::-1] for group in _parts(shuffled, batch * GROUPED_BATCHES)]
    grouped = [step for group in groups for step in _parts(group, batch)]
    unpacked, packed = replace(layout, packed=False), replace(layout, packed=True)

    def share(steps: list[np.ndarray], layout: Layout) -> float:
        return int(shuffled.sum()) / sum(layout.positions(step.tolist()) for step in steps)

    return {
        "off": share(steps, unpacked),
        "group_by_length": share(grouped, unpacked),
        "bfd": share(steps, packed),
    }


def _parts(lengths: np.ndarray, size: int) -> list[np.ndarray]:
    return [lengths[at : at + size] for at in range(0, len(lengths), size)]


def is_worthwhile(filled: dict[str, float], fixed: bool) -> bool:
    """Whether to pack by default. `fixed` as in Layout: packed rows also give a GPU one shape."""
    return filled["bfd"] - filled["off"] >= (0 if fixed else MIN_SAVING)
