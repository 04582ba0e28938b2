"""Tells real differences between scenarios from chance.

Two scenarios are compared seed by seed, and within a seed held-out row by held-out row: both saw the same data in
the same order, so what seed and row do to both cancels out. The interval of a difference covers both other seeds and
other rows. It joins the t interval over the seeds with that over the rows as Banerjee does (Annals of the Institute
of Statistical Mathematics 12, 1960), which holds at least as often as it says, however few the seeds are; Welch's and
Satterthwaite's are wrong twice too often with two. A single seed has an interval over the rows alone, which says
nothing about chance in training, so nothing is concluded from it.

Over all pairs of a comparison, Holm's step-down procedure (1979) keeps the chance of even one false difference at
5 %. "No difference shown" is never "does as well": that is said only where the whole interval lies within a margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import sqrt
from statistics import fmean, stdev
from typing import Any

import numpy as np

from trainer.common.formatting import percent
from trainer.experiments.student_t import t_quantile
from trainer.runs.row_losses import RowLosses

ALPHA = 0.05
"""Chance of one false difference or more, over all pairs."""
MARGIN = 0.01
"""By default, losses this close are as good as equal: a share of the lower one."""
ONE_SEED = "One seed cannot rule out chance: run 3 seeds."


@dataclass(frozen=True)
class Results:
    """What a scenario reached, by seed; only finished runs."""

    losses: Mapping[int, float]
    """Final eval loss."""
    rows: Mapping[int, RowLosses]
    """Of each held-out example, where they are known."""
    complete: bool = True
    """All its runs finished."""


@dataclass(frozen=True)
class Difference:
    """An estimated difference, and what it varies with."""

    mean: float
    seeds: int
    rows: int
    """Held-out rows that were compared one by one; 0 if their losses are not known."""
    variances: tuple[tuple[float, int], ...]
    """Squared standard error and degrees of freedom: over the seeds, over the rows."""

    def half_width(self, level: float) -> float | None:
        """Of the confidence interval; None if nothing is known of the variance."""
        if not self.variances:
            return None
        return sqrt(sum(t_quantile(freedom, level) ** 2 * variance for variance, freedom in self.variances))

    @property
    def p(self) -> float:
        """Probability of a difference at least as large where there is none; 1 with a single seed."""
        if self.seeds < 2 or not self.mean:
            return 1.0
        low, high = 0.0, 1.0
        for _ in range(40):  # the level at which the interval just reaches zero
            level = 1 - (low + high) / 2
            wide = (self.half_width(level) or 0.0) >= abs(self.mean)
            low, high = ((low + high) / 2, high) if wide else (low, (low + high) / 2)
        return high


@dataclass(frozen=True)
class Pair:
    """Two scenarios and their difference in final eval loss; `better` has the lower mean."""

    better: str
    worse: str
    difference: float
    half_width: float | None
    """Half width of the confidence interval of `difference`; None if it is unknown."""
    level: float
    """Of that interval: higher than 95 % where Holm's procedure demands it."""
    p: float
    """Adjusted by Holm's procedure for all pairs of the comparison."""
    margin: float
    """Differences below it count as none."""
    seeds: int
    rows: int
    complete: bool = True
    """All runs of both finished."""

    @property
    def real(self) -> bool:
        """Whether the difference is more than chance, with all pairs considered."""
        return self.seeds > 1 and self.p < ALPHA

    @property
    def equivalent(self) -> bool:
        """Whether the whole interval lies within the margin, and nothing is missing."""
        known = self.complete and self.seeds > 1 and self.half_width is not None
        return known and self.difference + (self.half_width or 0.0) <= self.margin

    @property
    def size(self) -> str:
        """The difference with its interval, as `0.11 ± 0.02`."""
        digits = _digits(self.half_width if self.half_width else self.difference)
        width = "" if self.half_width is None else f" ± {self.half_width:.{digits}f}"
        return f"{self.difference:.{digits}f}{width}"

    @property
    def sentence(self) -> str:
        rows = f", {self.rows:,} held-out rows" if self.rows else ""
        if self.seeds == 1:
            interval = f" (95 % over {self.rows:,} held-out rows)" if self.half_width is not None else ""
            return f"{self.better} is {self.size} below {self.worse}{interval} on the one seed they share. {ONE_SEED}"
        basis = f"({percent(self.level)} interval, {self.seeds} seeds{rows})"
        if self.difference == 0 and not self.half_width:
            return f"{self.better} and {self.worse} are exactly equal {basis}."
        if self.equivalent:
            also = f"{self.better} is ahead, but " if self.real else ""
            margin = f"the difference, {self.size}, lies within the margin of {self.margin:.{_digits(self.margin)}f}"
            return f"{self.better} and {self.worse} are equivalent: {also}{margin} {basis}."
        if self.real:
            return f"{self.better} beats {self.worse} by {self.size} {basis}."
        return f"{self.better} and {self.worse}: no difference shown, {self.size} {basis}. They may still differ."

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"real": self.real, "equivalent": self.equivalent, "sentence": self.sentence}


def all_pairs(results: Mapping[str, Results], margin: float = MARGIN) -> list[Pair]:
    """All pairs of scenarios with a common seed, corrected for their number; `margin`: share of the lower loss."""
    found: list[tuple[Pair, Difference]] = []
    for first, second in combinations(results, 2):
        one, other = results[first], results[second]
        if not one.losses.keys() & other.losses.keys():
            continue
        better, worse, gap = first, second, difference(one, other)
        if gap.mean < 0:
            better, worse, gap = second, first, replace(gap, mean=-gap.mean)
        lower = fmean(results[better].losses.values())
        complete = one.complete and other.complete
        pair = Pair(better, worse, gap.mean, None, 0.0, gap.p, margin * lower, gap.seeds, gap.rows, complete)
        found.append((pair, gap))
    return _corrected(found)


def _corrected(found: Sequence[tuple[Pair, Difference]]) -> list[Pair]:
    """Holm's procedure: adjusted probabilities, and intervals that agree with its decisions."""
    tested = sorted((place for place, (pair, _) in enumerate(found) if pair.seeds > 1), key=lambda at: found[at][0].p)
    adjusted, levels, highest, open_still = {}, {}, 0.0, True
    level = 1 - ALPHA
    for rank, place in enumerate(tested):
        left = len(tested) - rank
        highest = max(highest, min(1.0, left * found[place][0].p))
        adjusted[place] = highest
        if open_still:  # the first pair that is not different ends it: later ones are judged at its level
            level, open_still = 1 - ALPHA / left, highest < ALPHA
        levels[place] = level
    return [
        replace(
            pair,
            p=adjusted.get(place, 1.0),
            level=levels.get(place, 1 - ALPHA),
            half_width=gap.half_width(levels.get(place, 1 - ALPHA)),
        )
        for place, (pair, gap) in enumerate(found)
    ]


def difference(one: Results, other: Results) -> Difference:
    """`other`'s eval loss minus `one`'s, over their common seeds."""
    seeds = sorted(one.losses.keys() & other.losses.keys())
    gaps = [other.losses[seed] - one.losses[seed] for seed in seeds]
    count = len(seeds)
    over_rows, rows = _row_variance([(one.rows.get(seed), other.rows.get(seed)) for seed in seeds])
    variances = [(stdev(gaps) ** 2 / count, count - 1)] if count > 1 else []
    variances += [(over_rows, rows - 1)] if rows > 1 else []
    return Difference(fmean(gaps), count, rows, tuple(variances))


def _row_variance(pairs: Sequence[tuple[RowLosses | None, RowLosses | None]]) -> tuple[float, int]:
    """Squared standard error of the mean difference that the choice of held-out rows causes, and their number.

    (0, 0) if they are not known for every seed. Eval loss is a mean over tokens, so a row weighs as many as it has:
    the variance is that of a ratio of means.
    """
    known = [
        (one, other) for one, other in pairs if one is not None and other is not None and _comparable(one, other)
    ]
    if not known or len(known) < len(pairs):
        return 0.0, 0
    by_set: dict[str, list[np.ndarray]] = {}
    tokens: dict[str, np.ndarray] = {}
    for one, other in known:
        assert one.after is not None and other.after is not None
        by_set.setdefault(one.examples, []).append(other.after - one.after)
        tokens[one.examples] = one.tokens
    # seeds with the same rows share what these rows do; those with rows of their own are independent of each other
    errors = [_ratio_error(np.mean(gaps, axis=0), tokens[name]) for name, gaps in by_set.items()]
    weights = [len(gaps) / len(known) for gaps in by_set.values()]
    return sum((weight * error) ** 2 for weight, error in zip(weights, errors, strict=True)), min(
        len(values) for values in tokens.values()
    )


def _comparable(one: RowLosses, other: RowLosses) -> bool:
    same = one.examples == other.examples and np.array_equal(one.tokens, other.tokens)
    return same and one.after is not None and other.after is not None and len(one.tokens) > 1


def _ratio_error(gaps: np.ndarray, tokens: np.ndarray) -> float:
    """Standard error of sum(gaps) / sum(tokens) over a random choice of rows."""
    count = len(gaps)
    residuals = gaps - gaps.sum() / tokens.sum() * tokens
    return float(np.sqrt((residuals**2).sum() / (count * (count - 1))) / tokens.mean())


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the Pareto-optimal points (price, loss), cheapest first."""
    front: list[str] = []
    for name in sorted(points, key=lambda item: points[item]):
        if not front or points[name][1] < points[front[-1]][1]:
            front.append(name)
    return front


def _digits(value: float) -> int:
    """Decimals needed to show two significant digits of a small number."""
    digits = 2
    while digits < 6 and abs(value) * 10**digits < 10:
        digits += 1
    return digits
