"""What the lengths of examples say: quantiles, a histogram, what a maximum length cuts, which one to take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.planning.schedule import Size

BINS = 48
STEP = 32
"""Suggested maximum lengths are multiples of this."""
CUT_SHARE = 0.01
"""Share of the examples that a suggested maximum length may cut, where that makes it much shorter."""
QUANTILES = {"least": 0.0, "median": 0.5, "90 %": 0.9, "99 %": 0.99, "most": 1.0}


def size(parts: Sequence[np.ndarray]) -> Size:
    """The size of the data: lengths of its training examples and, if any are held out, of those."""
    train = parts[0]
    return Size(len(train), float(train.mean()), max(int(part.max()) for part in parts if len(part)))


def quantiles(lengths: np.ndarray) -> dict[str, int]:
    """Tokens of the shortest, the middle, … the longest example."""
    found = np.quantile(lengths, list(QUANTILES.values()), method="inverted_cdf")
    return {name: int(value) for name, value in zip(QUANTILES, found, strict=True)}


def histogram(lengths: np.ndarray, max_length: int) -> dict[str, list[int]]:
    """`edges` and `counts` of bins of equal width. The last bin holds everything longer, where a few are far off."""
    top = int(lengths.max())
    usual = int(np.quantile(lengths, 0.995) * 1.5)
    top = max(min(top, max(usual, max_length + max_length // 4)), BINS)
    width = -(-(top + 1) // BINS)
    edges = np.arange(0, BINS + 1) * width
    counts, _ = np.histogram(np.minimum(lengths, edges[-1] - 1), edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def suggested(lengths: np.ndarray, most: int | None = None) -> int:
    """The maximum length to take: the longest example's; shorter where that cuts few and saves much."""
    longest = int(lengths.max())
    usual = int(np.quantile(lengths, 1 - CUT_SHARE, method="inverted_cdf"))
    wanted = longest if longest <= 2 * usual else usual
    rounded = max(-(-wanted // STEP) * STEP, STEP)
    return min(rounded, most) if most else rounded


def cuts(lengths: np.ndarray, firsts: np.ndarray, lasts: np.ndarray, max_length: int) -> dict[str, int]:
    """What `max_length` does to the examples."""
    counts_at_all = firsts < lengths
    return {
        "longer": int((lengths > max_length).sum()),
        "answers_cut": int((counts_at_all & (lasts > max_length) & (firsts < max_length)).sum()),
        "nothing_counts": int((firsts >= np.minimum(lengths, max_length)).sum()),
        "tokens_cut": int(np.maximum(lengths - max_length, 0).sum()),
    }


def counted_within(dataset: Any, max_length: int) -> np.ndarray:
    """How many tokens count in the first `max_length` of every example of a tokens.arrow."""
    found = [np.zeros(0, np.int64)]
    for chunk in dataset.data.column("counts").chunks:
        starts = np.asarray(chunk.offsets, dtype=np.int64)
        flags = chunk.values.slice(0, int(starts[-1])).to_numpy(zero_copy_only=False)
        sums = np.concatenate([[0], np.cumsum(flags)])
        ends = np.minimum(starts[:-1] + max_length, starts[1:])
        firsts = np.minimum(starts[:-1] + 1, ends)  # nothing stands before the first token to tell it from
        found.append(sums[ends] - sums[firsts])
    return np.concatenate(found)
