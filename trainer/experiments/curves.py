"""Curves made ready for drawing: smoothed, thinned, over steps, tokens or time."""

from __future__ import annotations

import numpy as np

from trainer.runs.history import History

POINTS = 1000
"""About how many points of a curve reach the browser."""
AXES = {"step": "step", "tokens": "tokens", "elapsed": "seconds of training"}


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the `width` values around every place; gaps stay gaps and do not spread."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    places = np.arange(len(values))
    starts, ends = np.maximum(places - width // 2, 0), np.minimum(places + width // 2 + 1, len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (sums[ends] - sums[starts]) / (counts[ends] - counts[starts])
    return np.asarray(np.where(known, means, np.nan))


def thin(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most about `points` points: the least and the greatest of every bin, so that peaks survive."""
    if len(y) <= points:
        return x, y
    width = -(-len(y) // (points // 2))
    flat = np.full(-(-len(y) // width) * width, np.nan)
    flat[: len(y)] = y
    bins = flat.reshape(-1, width)
    gaps = np.isnan(bins)
    starts = np.arange(len(bins)) * width
    lows = starts + np.where(gaps, np.inf, bins).argmin(axis=1)
    highs = starts + np.where(gaps, -np.inf, bins).argmax(axis=1)
    first_gaps = (starts + gaps.argmax(axis=1))[gaps.any(axis=1)]
    index = np.unique(np.concatenate([[0, len(y) - 1], lows, highs, first_gaps]))
    index = index[index < len(y)]
    return x[index], y[index]


def over(history: History, steps: np.ndarray, axis: str) -> np.ndarray:
    """`steps` as places on an axis of AXES: tokens seen, or seconds, by then. Between known ones, in proportion."""
    if axis == "step":
        return steps
    known_steps, values = history.train.curve(axis)
    known = np.isfinite(values)
    if not known.any():
        return np.full(len(steps), np.nan)
    return np.asarray(np.interp(steps, np.append(0, known_steps[known]), np.append(0.0, values[known])))
