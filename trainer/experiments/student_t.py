"""Quantiles of Student's t distribution.

Our own: nothing else would need SciPy, which takes about 100 MB. For few degrees of freedom, Abramowitz and Stegun
26.7.3 and 26.7.4 give the probability in closed form, and Newton's method finds the quantile, exact to 1e-9; for
many, their expansion 26.7.5 is exact to 1e-5.
"""

from __future__ import annotations

from functools import lru_cache
from math import cos, gamma, pi, sin, sqrt, tan
from statistics import NormalDist

MANY = 40
"""Degrees of freedom from which the expansion is used."""
HIGHEST = 1 - 1e-12
"""The highest level: beyond it, double precision tells nothing apart."""
PRECISION = 1e-13


@lru_cache(maxsize=10_000)
def t_quantile(freedom: int, level: float) -> float:
    """t with P(|T| <= t) = level for `freedom` degrees of freedom."""
    level = min(level, HIGHEST)
    if freedom >= MANY:
        return _expanded(freedom, NormalDist().inv_cdf((1 + level) / 2))
    angle, slope = 0.0, 2 / sqrt(pi) * gamma((freedom + 1) / 2) / gamma(freedom / 2)
    for _ in range(100):  # the probability is concave in the angle, so the steps rise towards it and never pass it
        step = (level - _inside(angle, freedom)) / (slope * cos(angle) ** (freedom - 1))
        angle += step
        if step < PRECISION:
            break
    return sqrt(freedom) * tan(angle)


def _expanded(freedom: int, normal: float) -> float:
    """The quantile from that of the normal distribution."""
    x = normal
    terms: tuple[float, ...] = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))


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
