"""What a race has measured: the runs of each rung, by arm, rate and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from trainer.experiments.race.halving import Costs
from trainer.experiments.statistics import Results
from trainer.runs.row_losses import RowLosses


@dataclass(frozen=True)
class Trained:
    """One run of one arm, scored on held-out rows."""

    losses: np.ndarray
    """(rows,): summed loss of each held-out row."""
    tokens: np.ndarray
    """(rows,): counted tokens of each."""
    step_seconds: float
    row_seconds: float
    setup_seconds: float = 0.0

    @property
    def loss(self) -> float:
        """Mean over all counted tokens; infinite if the run has diverged."""
        value = float(self.losses.sum() / max(self.tokens.sum(), 1))
        return value if math.isfinite(value) else math.inf

    @property
    def costs(self) -> Costs:
        return Costs(self.setup_seconds, self.step_seconds, self.row_seconds)


@dataclass
class Rung:
    """One rung: every arm with the same steps, on the same rows, scored on the same held-out rows."""

    steps: int
    rows: int
    """Held-out rows."""
    arms: tuple[str, ...]
    """Keys."""
    factors: dict[str, tuple[float, ...]]
    """By arm: the rates it is tried at, as factors of the configured one."""
    runs: dict[str, dict[tuple[float, int], Trained]] = field(default_factory=dict)
    """By arm, then by rate and number of the seed."""

    def drop(self, key: str) -> None:
        """Forget an arm that cannot train."""
        self.arms = tuple(arm for arm in self.arms if arm != key)
        self.runs.pop(key, None)

    def add(self, key: str, factor: float, seed: int, trained: Trained) -> None:
        self.runs.setdefault(key, {})[factor, seed] = trained

    def tried(self, key: str) -> bool:
        """Whether an arm has run at all its rates."""
        return {factor for factor, _ in self.runs.get(key, {})} >= {*self.factors[key]}

    def best_factor(self, key: str) -> float:
        """The rate with the lowest loss on the first seed."""
        losses = {factor: run.loss for (factor, seed), run in self.runs[key].items() if seed == 0}
        return min(losses, key=lambda factor: losses[factor])

    def at_best(self, key: str) -> dict[int, Trained]:
        """An arm's runs at its best rate, by the number of the seed; only seeds that all arms have run."""
        common = min(len(self._at_best(arm)) for arm in self.arms if self.tried(arm))
        return {seed: run for seed, run in self._at_best(key).items() if seed < common}

    def _at_best(self, key: str) -> dict[int, Trained]:
        best = self.best_factor(key)
        return {seed: run for (factor, seed), run in self.runs[key].items() if factor == best}

    def loss(self, key: str) -> float:
        """An arm's mean loss at its best rate."""
        return fmean(run.loss for run in self.at_best(key).values())

    def ranked(self, keys: Sequence[str]) -> list[str]:
        """Those arms that have run at all their rates, the best first."""
        return sorted((key for key in keys if self.tried(key)), key=self.loss)

    def results(self, key: str) -> Results:
        """As `statistics.all_pairs` takes them."""
        runs = self.at_best(key)
        rows = {seed: RowLosses("held-out", run.tokens, None, run.losses, self.steps) for seed, run in runs.items()}
        return Results({seed: run.loss for seed, run in runs.items()}, rows)

    def gaps(self, key: str, leader: str) -> tuple[np.ndarray, np.ndarray]:
        """By held-out row: how much higher the arm's summed loss is than the leader's, as a mean over the seeds; and
        the counted tokens."""
        own, other = self.at_best(key), self.at_best(leader)
        gaps = np.mean([own[seed].losses - other[seed].losses for seed in own], axis=0)
        return gaps, own[0].tokens
