"""Packs several examples of a batch into one row: fewer rows, hardly any padding, the same batch.

Best fit decreasing finds how few rows of the maximum length will do, then the rows are made about equally long.
Batches hold the same examples packed and unpacked, so steps, losses and learning rates stay what they were.

Our own: TRL packs the whole data set in advance, which changes the batches, and with them the number of steps.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

MIN_SAVING = 0.1
"""Share of all positions that packing must save to be worthwhile."""
SAMPLED_BATCHES = 300
GROUPED_BATCHES = 50
"""Batches that transformers' length grouping sorts together."""


def rows(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Places of a batch's examples, row by row; no row is longer than `max_length`."""
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


def fill(lengths: np.ndarray, batch: int, max_length: int, seed: int = 0) -> dict[str, float]:
    """Share of positions that hold tokens rather than padding: in random, in length-grouped and in packed batches.

    Measured on a sample of batches.
    """
    lengths = np.minimum(lengths, max_length)
    shuffled = np.random.default_rng(seed).permutation(lengths)[: batch * SAMPLED_BATCHES]
    batches = [shuffled[at : at + batch] for at in range(0, len(shuffled), batch)]
    total = int(shuffled.sum())
    groups = [
        np.sort(shuffled[at : at + batch * GROUPED_BATCHES])
        for at in range(0, len(shuffled), batch * GROUPED_BATCHES)
    ]
    grouped = [group[at : at + batch] for group in groups for at in range(0, len(group), batch)]
    return {
        "off": total / sum(len(part) * int(part.max()) for part in batches),
        "group_by_length": total / sum(len(part) * int(part.max()) for part in grouped),
        "bfd": total / sum(_packed_size(part.tolist(), max_length) for part in batches),
    }


def _packed_size(lengths: list[int], max_length: int) -> int:
    found = rows(lengths, max_length)
    return len(found) * max(sum(lengths[place] for place in row) for row in found)


def is_worthwhile(filled: dict[str, float]) -> bool:
    """Whether packing saves enough padding to be the default."""
    return filled["bfd"] - filled["off"] >= MIN_SAVING
