"""Prepares curves for drawing: smoothing, thinning, and axes of steps, tokens or time."""

from __future__ import annotations

import numpy as np

from trainer.runs.history import History

POINTS = 1000
"""Approximate number of points per curve that are sent to the browser."""
AXES = {"step": "step", "tokens": "tokens", "elapsed": "seconds of training"}


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """A centered moving average over `width` values; gaps stay gaps and do not spread."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    index = np.arange(len(values))
    starts, ends = np.maximum(index - width // 2, 0), np.minimum(index + width // 2 + 1, len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (sums[ends] - sums[starts]) / (counts[ends] - counts[starts])
    return np.asarray(np.where(known, means, np.nan))


def thin(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """About `points` points at most: the minimum and maximum of every bin, so that peaks survive."""
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
    """`steps` on one of AXES: tokens seen or seconds of training until then, interpolated linearly."""
    if axis == "step":
        return steps
    known_steps, values = history.train.curve(axis)
    known = np.isfinite(values)
    if not known.any():
        return np.full(len(steps), np.nan)
    return np.asarray(np.interp(steps, np.append(0, known_steps[known]), np.append(0.0, values[known])))
