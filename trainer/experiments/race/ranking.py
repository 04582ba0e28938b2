"""The order that a race shows so far, with intervals, and what follows from it in one sentence.

Arms are compared in the last rung that they share with the leader. With one seed, the interval is a paired bootstrap
over held-out rows (Koehn 2004), which says nothing about chance in training, so that nothing is concluded from it.
Finalists have several seeds, and are judged as scenarios are (`statistics.all_pairs`): over seeds and rows, all pairs
together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from trainer.common.formatting import percent
from trainer.experiments.race.records import Rung
from trainer.experiments.statistics import MARGIN, Pair, all_pairs

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Place:
    """One arm in the ranking."""

    key: str
    rung: int
    """The last one it was ranked in, counted from 1."""
    steps: int
    seeds: int
    factor: float
    """Its best learning rate there, as a factor of the configured one."""
    loss: float | None
    """There, at that rate; None if it diverged at every rate."""
    gap: float | None
    """How much higher that is than the lowest loss of that rung; None where it is the lowest, or diverged."""
    low: float | None
    high: float | None
    """The interval of `gap`."""
    step_seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Conclusion:
    """What to take."""

    key: str
    sentence: str
    shown: bool
    """Whether the race has shown that nothing in its final is better by more than the margin."""


def ranking(rungs: Sequence[Rung]) -> list[Place]:
    """All arms that have run at all their rates: those of the last rung that counts first, the best of them first."""
    places: list[Place] = []
    seen: set[str] = set()
    for number, rung in reversed(list(enumerate(counting(rungs), 1))):
        ranked = rung.ranked(rung.arms)
        places += [_place(rung, number, key, ranked[0]) for key in ranked if key not in seen]
        seen |= {*ranked}
    return places


def counting(rungs: Sequence[Rung]) -> list[Rung]:
    """The rungs from which something follows: a later one only counts once all of its arms have run."""
    return [rung for number, rung in enumerate(rungs) if not number or all(map(rung.tried, rung.arms))]


def bootstrap(gaps: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """The interval of sum(gaps) / sum(tokens) over a random choice of rows; both (rows,)."""
    times = _draws(len(gaps))
    low, high = np.quantile((times @ gaps) / np.maximum(times @ tokens, 1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@cache
def _draws(rows: int) -> np.ndarray:
    """(DRAWS, rows): how often each row is in each bootstrap sample; always the same samples."""
    return np.random.default_rng(0).multinomial(rows, np.full(rows, 1 / rows), DRAWS).astype(float)


def conclusion(rungs: Sequence[Rung], titles: Mapping[str, str], times: Mapping[str, float]) -> Conclusion | None:
    """What follows so far; `times`: seconds of a step of each arm. None if no arm has run at all its rates."""
    counted = counting(rungs)
    ranked = counted[-1].ranked(counted[-1].arms) if counted else []
    if not ranked or not math.isfinite(counted[-1].loss(ranked[0])):
        return None
    best, final = ranked[0], counted[-1]
    if len(ranked) == 1:
        return Conclusion(best, f"{titles[best]} is the only selection that could be compared so far.", False)
    finite = [key for key in ranked if math.isfinite(final.loss(key))]
    pairs = all_pairs({key: final.results(key) for key in finite}, MARGIN)
    own = {_other(pair, best): pair for pair in pairs if best in (pair.better, pair.worse)}
    if not own or max(pair.seeds for pair in own.values()) < 2:
        lead = f"{titles[best]} has the lowest loss of {len(ranked)} selections after {final.steps} steps"
        return Conclusion(best, f"{lead}, on a single seed, which cannot rule out chance: nothing is shown.", False)
    return _final(best, own, titles, times)


def _final(best: str, own: Mapping[str, Pair], titles: Mapping[str, str], times: Mapping[str, float]) -> Conclusion:
    """The conclusion of finalists with several seeds; `own`: the best one's pairs, by the other arm."""
    equal = [key for key, pair in own.items() if pair.equivalent]
    cheapest = min([best, *equal], key=lambda key: times[key])
    if cheapest != best and times[cheapest] < times[best]:
        saved = percent(1 - times[cheapest] / times[best])
        pair = own[cheapest]
        text = (
            f"{titles[cheapest]}: its loss lies within {percent(MARGIN)} of the lowest, that of {titles[best]} "
            f"({pair.size} higher, {percent(pair.level)} interval), and a step takes {saved} less time."
        )
        return Conclusion(cheapest, text, True)
    unclear = [key for key, pair in own.items() if not pair.real and not pair.equivalent]
    if unclear:
        others = _joined([f"{titles[key]} ({own[key].size})" for key in unclear])
        text = f"{titles[best]} has the lowest loss, but no difference is shown to {others}: they may still differ."
        return Conclusion(best, text, False)
    beaten = [f"{titles[key]} by {own[key].size}" for key in own if key not in equal]
    if not beaten:
        text = f"{titles[best]}: the other finalists are within {percent(MARGIN)} of its loss, and none is faster."
        return Conclusion(best, text, True)
    return Conclusion(best, f"{titles[best]} has the lowest loss: it beats {_joined(beaten)}.", True)


def _place(rung: Rung, number: int, key: str, leader: str) -> Place:
    loss, runs = rung.loss(key), rung.at_best(key)
    gap = low = high = None
    if key != leader and math.isfinite(loss):
        gaps, tokens = rung.gaps(key, leader)
        gap, (low, high) = float(gaps.sum() / tokens.sum()), bootstrap(gaps, tokens)
        if min(len(runs), len(rung.at_best(leader))) > 1:  # over the seeds, too
            pair = all_pairs({item: rung.results(item) for item in (leader, key)}, MARGIN)[0]
            gap = pair.difference if pair.better == leader else -pair.difference
            low, high = gap - (pair.half_width or 0.0), gap + (pair.half_width or 0.0)
    seconds = float(np.mean([run.step_seconds for run in runs.values()]))
    finite = loss if math.isfinite(loss) else None
    return Place(key, number, rung.steps, len(runs), rung.best_factor(key), finite, gap, low, high, seconds)


def _other(pair: Pair, key: str) -> str:
    return pair.worse if pair.better == key else pair.better


def _joined(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
