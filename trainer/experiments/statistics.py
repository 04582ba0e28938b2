"""Whether a difference between scenarios is real: paired differences over seeds with a confidence interval.

The same seed gives two scenarios the same data in the same order, so their losses are compared seed by seed, and what
the seed does to both cancels out (a paired t interval).

The t quantile is our own: it would be all that SciPy, about 100 MB, is needed for.
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
ALONE = "One seed cannot show whether that is more than chance: run 3 seeds."


@dataclass(frozen=True)
class Pair:
    """Two scenarios and their difference in final eval loss; `better` has the lower mean."""

    better: str
    worse: str
    difference: float
    half_width: float | None
    """Of the confidence interval around `difference`; None with a single common seed."""
    seeds: int

    @property
    def real(self) -> bool:
        """Whether the interval leaves zero out."""
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
            return f"{self.better} is {self.size} below {self.worse} with the one seed they share. {ALONE}"
        sure = f"({LEVEL * 100:g} %, {self.seeds} seeds)"
        if self.real:
            return f"{self.better} beats {self.worse} by {self.size} {sure}."
        if self.difference == 0:
            return f"{self.better} and {self.worse} are the same to the last digit {sure}."
        return f"{self.better} and {self.worse}: no difference that these seeds can show, {self.size} {sure}."

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"real": self.real, "sentence": self.sentence}


def all_pairs(losses: Mapping[str, Mapping[int, float]]) -> list[Pair]:
    """Every two scenarios with a common seed. `losses`: scenario -> seed -> final eval loss."""
    found = (compare_pair(first, second, losses) for first, second in combinations(losses, 2))
    return [pair for pair in found if pair is not None]


def compare_pair(first: str, second: str, losses: Mapping[str, Mapping[int, float]]) -> Pair | None:
    """The paired difference of two scenarios over their common seeds; None where they share none."""
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
    """What the measured losses say, in sentences: who is best, whom that surely beats, who does as well for less."""
    known = {name: values for name, values in losses.items() if values}
    if len(known) < 2:
        return []
    best = min(known, key=lambda name: mean(known[name].values()))
    pairs = [pair for other in known if other != best and (pair := compare_pair(best, other, known))]
    most = max(len(values) for values in known.values())
    told = [f"{best} has the lowest held-out loss: {spread_text(list(known[best].values()))}."]
    if most == 1:
        runner = min((pair for pair in pairs if pair.better == best), key=lambda pair: pair.difference, default=None)
        return [*told, runner.sentence if runner else ALONE]
    told += [pair.sentence for pair in pairs if pair.real]
    equals = [pair for pair in pairs if not pair.real]
    told += [pair.sentence for pair in equals]
    names = [pair.worse if pair.better == best else pair.better for pair in equals]
    price = {name: count for name in (best, *names) if (count := trainable.get(name))}
    least = min(price, key=lambda name: price[name], default=best)
    if best in price and least != best and price[least] < price[best]:
        share = price[least] / price[best]
        told.append(f"{least} does as well, as far as these seeds show, with {percent(share)} of the parameters.")
    if len(pairs) > 1:
        told.append("Each interval holds by itself: of twenty such comparisons, expect one to mislead.")
    return told


def spread_text(values: Sequence[float]) -> str:
    """`0.5123 on average over 3 seeds (spread 0.0021)`; of one value, the value."""
    if len(values) == 1:
        return loss(values[0])
    return f"{loss(mean(values))} on average over {len(values)} seeds (standard deviation {loss(stdev(values))})"


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (price, loss) that no other point beats in one and equals in the other, cheapest first."""
    front: list[str] = []
    for name in sorted(points, key=lambda item: points[item]):
        if not front or points[name][1] < points[front[-1]][1]:
            front.append(name)
    return front


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """t with P(|T| <= t) = level for Student's T of so many degrees of freedom, exact to 1e-9.

    Abramowitz and Stegun 26.7.3 and 26.7.4 give the probability in closed form; the angle is found by halving.
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
    """Decimals that show two digits of a small number."""
    digits = 2
    while digits < 6 and abs(value) * 10**digits < 10:
        digits += 1
    return digits
