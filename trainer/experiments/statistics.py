"""Tells real differences between scenarios from chance: paired t intervals over seeds.

With the same seed, two scenarios see the same data in the same order, so their losses are compared seed by seed, and
the effect of the seed cancels out.

The t quantile is our own: nothing else would need SciPy, which takes about 100 MB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import cos, pi, sin, sqrt, tan
from statistics import mean, stdev
from typing import Any

from trainer.common.formatting import loss, percent

LEVEL = 0.95
ALONE = "One seed cannot rule out chance: run 3 seeds."


@dataclass(frozen=True)
class Pair:
    """Two scenarios and their difference in final eval loss; `better` has the lower mean."""

    better: str
    worse: str
    difference: float
    half_width: float | None
    """Half width of the confidence interval of `difference`; None with a single common seed."""
    seeds: int

    @property
    def real(self) -> bool:
        """Whether the interval excludes zero."""
        return self.half_width is not None and self.difference > self.half_width

    @property
    def size(self) -> str:
        """The difference with its interval, as `0.11 ± 0.02`."""
        digits = _digits(self.half_width if self.half_width else self.difference)
        width = "" if self.half_width is None else f" ± {self.half_width:.{digits}f}"
        return f"{self.difference:.{digits}f}{width}"

    @property
    def sentence(self) -> str:
        if self.half_width is None:
            return f"{self.better} is {self.size} below {self.worse} on the one seed they share. {ALONE}"
        sure = f"({LEVEL * 100:g} %, {self.seeds} seeds)"
        if self.real:
            return f"{self.better} beats {self.worse} by {self.size} {sure}."
        if self.difference == 0:
            return f"{self.better} and {self.worse} are exactly equal {sure}."
        return f"{self.better} and {self.worse}: no difference detected, {self.size} {sure}."

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"real": self.real, "sentence": self.sentence}


def all_pairs(losses: Mapping[str, Mapping[int, float]]) -> list[Pair]:
    """All pairs of scenarios with a common seed. `losses`: scenario -> seed -> final eval loss."""
    pairs = (compare_pair(first, second, losses) for first, second in combinations(losses, 2))
    return [pair for pair in pairs if pair is not None]


def compare_pair(first: str, second: str, losses: Mapping[str, Mapping[int, float]]) -> Pair | None:
    """The paired difference of two scenarios over their common seeds; None if they share none."""
    seeds = sorted(losses[first].keys() & losses[second].keys())
    if not seeds:
        return None
    steps = [losses[second][seed] - losses[first][seed] for seed in seeds]
    if mean(steps) < 0:
        first, second, steps = second, first, [-step for step in steps]
    count = len(steps)
    width = t_quantile(count - 1) * stdev(steps) / sqrt(count) if count > 1 else None
    return Pair(first, second, mean(steps), width, count)


def verdict(losses: Mapping[str, Mapping[int, float]], trainable: Mapping[str, int | None]) -> list[str]:
    """The conclusion in sentences: which is best, what it beats for certain, and which does as well for less."""
    known = {name: values for name, values in losses.items() if values}
    if len(known) < 2:
        return []
    best = min(known, key=lambda name: mean(known[name].values()))
    pairs = [pair for other in known if other != best and (pair := compare_pair(best, other, known))]
    most = max(len(values) for values in known.values())
    sentences = [f"{best} has the lowest held-out loss: {spread_text(list(known[best].values()))}."]
    if most == 1:
        runner_up = min(
            (pair for pair in pairs if pair.better == best), key=lambda pair: pair.difference, default=None
        )
        return [*sentences, runner_up.sentence if runner_up else ALONE]
    sentences += [pair.sentence for pair in pairs if pair.real]
    equals = [pair for pair in pairs if not pair.real]
    sentences += [pair.sentence for pair in equals]
    names = [pair.worse if pair.better == best else pair.better for pair in equals]
    price = {name: count for name in (best, *names) if (count := trainable.get(name))}
    least = min(price, key=lambda name: price[name], default=best)
    if best in price and least != best and price[least] < price[best]:
        share = price[least] / price[best]
        sentences.append(f"{least} is not measurably worse, with {percent(share)} of the parameters.")
    if len(pairs) > 1:
        sentences.append("Intervals are not corrected for multiple comparisons: expect one in twenty to mislead.")
    return sentences


def spread_text(values: Sequence[float]) -> str:
    """`0.5123 on average over 3 seeds (standard deviation 0.0021)`; for one value, the value."""
    if len(values) == 1:
        return loss(values[0])
    return f"{loss(mean(values))} on average over {len(values)} seeds (standard deviation {loss(stdev(values))})"


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the Pareto-optimal points (price, loss), cheapest first."""
    front: list[str] = []
    for name in sorted(points, key=lambda item: points[item]):
        if not front or points[name][1] < points[front[-1]][1]:
            front.append(name)
    return front


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """t with P(|T| <= t) = level for Student's t with `freedom` degrees of freedom, exact to 1e-9.

    Abramowitz and Stegun 26.7.3 and 26.7.4 give the probability in closed form; the angle is found by bisection.
    """
    low, high = 0.0, pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < level else (low, middle)
    return sqrt(freedom) * tan(low)


def _inside(angle: float, freedom: int) -> float:
    """P(|T| <= sqrt(freedom) * tan(angle))."""
    odd = freedom % 2
    total = term = cos(angle) if odd else 1.0
    for power in range(2 + odd, freedom - 1, 2):
        term *= (power - 1) / power * cos(angle) ** 2
        total += term
    if not odd:
        return sin(angle) * total
    return 2 / pi * (angle + (sin(angle) * total if freedom > 1 else 0.0))


def _digits(value: float) -> int:
    """Decimals needed to show two significant digits of a small number."""
    digits = 2
    while digits < 6 and abs(value) * 10**digits < 10:
        digits += 1
    return digits
