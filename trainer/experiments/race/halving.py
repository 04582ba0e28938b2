"""Successive halving: how many arms, steps and held-out rows every rung of a race has in the time that is left.

Each rung trains every arm that is still in the race with a full short schedule, warmup and decay inside (Jamieson and
Talwalkar, arXiv:1502.07943). The better half goes on to more steps; the last rung has FINALISTS, with SEEDS seeds
each. All rungs get the same time, the last one twice as much. Nothing here trains: the figures follow from measured
times alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

FINALISTS, SEEDS = 3, 5
FACTORS = (0.5, 1.0, 2.0)
"""Rates that an arm is tried at in the first rung, as factors of the rate that the scout found."""
LATER_RATES = 2
"""Rates in later rungs: the best one so far, and its neighbor."""
LEAST_STEPS = 16
"""Shorter schedules say little about the order of the arms."""
LEAST_ARMS = 2
LEAST_ROWS, MOST_ROWS = 32, 512
"""Held-out rows that are scored."""
ROWS_PER_EXAMPLE = 0.5
"""Held-out rows for every training example of a run. Scoring takes a third of the time of training, so that it adds a
sixth."""


@dataclass(frozen=True)
class Costs:
    """Measured seconds of one arm."""

    setup: float
    """What a run takes besides its steps: attaching, checks, detaching."""
    step: float
    row: float
    """Scoring one held-out row."""


@dataclass(frozen=True)
class Shape:
    """What a race has to do with."""

    batch: int
    """Examples per step."""
    most_steps: int
    """Steps of the whole run: a race never trains longer."""
    held_out: int
    """Rows that are held out."""

    def rows(self, steps: int) -> int:
        """Held-out rows that a run of so many steps is scored on."""
        wanted = max(LEAST_ROWS, round(ROWS_PER_EXAMPLE * steps * self.batch))
        return min(wanted, MOST_ROWS, self.held_out)

    def seconds(self, costs: Costs, steps: int) -> float:
        """How long one run takes."""
        return costs.setup + steps * costs.step + self.rows(steps) * costs.row


def sizes(arms: int) -> tuple[int, ...]:
    """Arms in each rung: 14, 7, 3."""
    found = [arms]
    while found[-1] > FINALISTS:
        found.append(max(FINALISTS, ceil(found[-1] / 2)) if found[-1] > 2 * FINALISTS else FINALISTS)
    return tuple(found)


def runs_of(rung: int, rungs: int) -> int:
    """Runs of one arm in a rung, counted from 0."""
    rates = LATER_RATES if rung else len(FACTORS)
    return rates + SEEDS - 1 if rung == rungs - 1 else rates


def share(rung: int, rungs: int) -> float:
    """The share of a rung in the time that is left when it starts."""
    return 1.0 if rung == rungs - 1 else 1 / (rungs - rung + 1)


def steps_of(seconds: float, costs: Sequence[Costs], runs: int, shape: Shape) -> int:
    """The most steps with which `runs` runs of each arm take at most `seconds`; 0 if not even one step does."""

    def needed(steps: int) -> float:
        return runs * sum(shape.seconds(cost, steps) for cost in costs)

    return bisect_right(range(1, shape.most_steps + 1), seconds, key=needed)


def affordable(seconds: float, arms: int, costs: Costs, shape: Shape) -> int:
    """How many of `arms` arms fit into a race of `seconds` with LEAST_STEPS steps in its first rung; 0 if too few."""
    least = min(LEAST_STEPS, shape.most_steps)
    for count in range(arms, LEAST_ARMS - 1, -1):
        rungs = len(sizes(count))
        if steps_of(seconds * share(0, rungs), [costs] * count, runs_of(0, rungs), shape) >= least:
            return count
    return 0


def least_seconds(costs: Costs, shape: Shape) -> float:
    """The shortest race: LEAST_ARMS arms with LEAST_STEPS steps."""
    return LEAST_ARMS * runs_of(0, 1) * shape.seconds(costs, min(LEAST_STEPS, shape.most_steps))
