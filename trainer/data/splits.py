"""What trains and what is held out: by a seed, and never the same text on both sides."""

from __future__ import annotations

import numpy as np


def split(keys: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the training and of the held-out examples, about `fraction` of them.

    `keys`: one number per example, equal for equal examples; all that are equal go to one side. With too few
    different examples for two sides, none is held out.
    """
    everything, nothing = np.arange(len(keys)), np.arange(0)
    groups, group_of = np.unique(keys, return_inverse=True)
    wanted = round(len(keys) * fraction)
    if wanted == 0 or len(groups) < 2:
        return everything, nothing
    order = np.random.default_rng(seed).permutation(len(groups))
    sizes = np.cumsum(np.bincount(group_of)[order])
    chosen = order[: max(1, int(np.searchsorted(sizes, wanted, side="right")))]
    if len(chosen) == len(groups):
        return everything, nothing
    held_out = np.isin(group_of, chosen)
    return everything[~held_out], everything[held_out]


def without(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Places of the `keys` that are not among `others`."""
    return np.flatnonzero(~np.isin(keys, others))
