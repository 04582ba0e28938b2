"""The race: a scout finds the height of the learning rates, then rungs of successive halving.

The best rate of a short run is higher than that of a long one, and differs between arms, so that each arm is tried at
several rates in every rung. What trains is passed in; nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from trainer.common.errors import UserError
from trainer.common.formatting import duration, plural
from trainer.config.schema import RunConfig
from trainer.experiments import rate_ladder
from trainer.experiments.race import halving
from trainer.experiments.race.halving import Costs, Shape
from trainer.experiments.race.records import Rung, Trained
from trainer.experiments.scenario_plans import ScenarioPlan

WAITING, RACING, OUT, FINALIST, FAILED, LEFT_OUT = "waiting", "racing", "out", "finalist", "failed", "left out"
SCOUT_STRIDE = 4.0
"""Factor between the rates that the scout tries."""
MOST_SCOUTED = 5
RESERVE = 0.05
"""Share of the time left that is not planned with: runs do not take exactly what earlier ones took."""

Train = Callable[[RunConfig, int], Trained]
"""Trains a configuration from the base model on, and scores it on so many held-out rows."""


class Stopped(Exception):
    """A stop was asked in the middle of a run."""


@dataclass
class Entry:
    """An arm in the race."""

    arm: ScenarioPlan
    state: str = WAITING
    note: str = ""
    """Why it failed or was left out."""
    costs: Costs | None = None
    """Of its latest run."""

    @property
    def key(self) -> str:
        return self.arm.scenario.key

    @property
    def title(self) -> str:
        return self.arm.scenario.title


@dataclass
class Race:
    """A race of `entries`, the most important ones first. `run` it once; everything else may be read meanwhile."""

    entries: list[Entry]
    shape: Shape
    train: Train
    left: Callable[[], float]
    """Seconds left."""
    show: Callable[[], None]
    """Called whenever something has changed."""
    rungs: list[Rung] = field(default_factory=list)
    sizes: tuple[int, ...] = ()
    """Arms in each rung."""
    doing: str = ""
    stopped: bool = False

    def run(self) -> None:
        """Race until one arm is best, or time is up, or a stop is asked. Raises UserError if no race is possible."""
        try:
            factor, costs = self._scout()
            racing = self._choose(costs)
            factors = {item.key: tuple(factor * part for part in halving.FACTORS) for item in racing}
            for number in range(len(self.sizes)):
                rung = self._run_rung(racing, factors, number)
                racing = self._halve(racing, rung, number)
                factors = {item.key: neighbors(self.rungs, item.key) for item in racing}
        except Stopped:
            self.stopped = True
        self.doing = ""
        self.show()

    def entry(self, key: str) -> Entry:
        return next(item for item in self.entries if item.key == key)

    def _scout(self) -> tuple[float, Costs]:
        """The factor of the configured rates at which the first arm learns best in a short run, and its costs."""
        steps = min(halving.LEAST_STEPS, self.shape.most_steps)
        tried: dict[float, float] = {}
        entry, factor, stride = self._first(), 1.0, SCOUT_STRIDE
        while len(tried) < MOST_SCOUTED:
            trained = self._train(entry, factor, steps, self.shape.rows(steps))
            if trained is None:
                entry, tried, factor, stride = self._first(), {}, 1.0, SCOUT_STRIDE
                continue
            tried[factor] = trained.loss
            best = min(tried, key=lambda item: tried[item])
            if len(tried) == 2 and best == 1.0:  # higher was worse: look below
                stride = 1 / SCOUT_STRIDE
            elif best != factor:
                break
            factor = best * stride
        entry.state = WAITING
        assert entry.costs is not None
        return min(tried, key=lambda item: tried[item]), entry.costs

    def _first(self) -> Entry:
        """The first arm that has not failed. Raises UserError if there is none."""
        for entry in self.entries:
            if entry.state == WAITING:
                return entry
        problem = self.entries[0].note if self.entries else "There is nothing to tick in this model."
        raise UserError(f"No selection can be trained: {problem}", "Run `plan` to see what is wrong.")

    def _choose(self, costs: Costs) -> list[Entry]:
        """The arms for which there is time. Raises UserError if there is time for none."""
        waiting = [item for item in self.entries if item.state == WAITING]
        if len(waiting) < halving.LEAST_ARMS:
            raise UserError("There is only one selection that can be trained on this model.", "Train it.")
        count = halving.affordable(self._planned(), len(waiting), costs, self.shape)
        if not count:
            least = halving.least_seconds(costs, self.shape)
            steps = min(halving.LEAST_STEPS, self.shape.most_steps)
            one = duration(self.shape.seconds(costs, steps))
            raise UserError(
                f"The time is too short: a run of {steps} steps takes {one} here, and the smallest race "
                f"{duration(least)} after the first runs.",
                "Give it more minutes, lower max_length, or use a faster device.",
                "data",
            )
        for item in waiting[count:]:
            item.state, item.note = LEFT_OUT, "no time for it"
        self.sizes = halving.sizes(count)
        return waiting[:count]

    def _run_rung(self, racing: Sequence[Entry], factors: dict[str, tuple[float, ...]], number: int) -> Rung:
        rungs = len(self.sizes)
        runs, last = halving.runs_of(number, rungs), number == rungs - 1
        costs = [item.costs or self._known_costs() for item in racing]
        steps = halving.steps_of(self._planned() * halving.share(number, rungs), costs, runs, self.shape)
        steps = max(steps, min(halving.LEAST_STEPS, self.shape.most_steps))
        keys = tuple(item.key for item in racing)
        rung = Rung(steps, self.shape.rows(steps), keys, factors)
        self.rungs.append(rung)
        for item in racing:
            item.state = FINALIST if last else RACING
        for item in racing:
            for factor in factors[item.key]:
                self._add(rung, item, factor, 0)
        for seed in range(1, halving.SEEDS if last else 1):
            for item in racing:
                if item.key in rung.runs:
                    self._add(rung, item, rung.best_factor(item.key), seed)
        return rung

    def _add(self, rung: Rung, entry: Entry, factor: float, seed: int) -> None:
        if entry.state == FAILED:
            return
        trained = self._train(entry, factor, rung.steps, rung.rows, seed)
        if trained is None:
            rung.drop(entry.key)
        else:
            rung.add(entry.key, factor, seed, trained)
            self.show()

    def _halve(self, racing: Sequence[Entry], rung: Rung, number: int) -> list[Entry]:
        """The arms that go on."""
        ranked = rung.ranked([item.key for item in racing])
        if not ranked:
            raise UserError(f"Every selection failed. {racing[0].title}: {racing[0].note}", "Check the plan.")
        kept = self._fitting(ranked, number + 1) if number + 1 < len(self.sizes) else ranked
        for item in racing:
            if item.state != FAILED and item.key not in kept:
                item.state = OUT
        return [self.entry(key) for key in kept]

    def _fitting(self, ranked: list[str], number: int) -> list[str]:
        """The best arms that there is time for in rung `number`, where earlier rungs took longer than planned."""
        kept, rungs = ranked[: self.sizes[number]], len(self.sizes)
        seconds, runs = self._planned() * halving.share(number, rungs), halving.runs_of(number, rungs)
        least = min(halving.LEAST_STEPS, self.shape.most_steps)
        while len(kept) > halving.LEAST_ARMS:
            costs = [self.entry(key).costs or self._known_costs() for key in kept]
            if halving.steps_of(seconds, costs, runs, self.shape) >= least:
                break
            kept.pop()
        self.sizes = (*self.sizes[:number], *(min(size, len(kept)) for size in self.sizes[number:]))
        return kept

    def _train(self, entry: Entry, factor: float, steps: int, rows: int, seed: int = 0) -> Trained | None:
        """One run; None if the arm cannot train, which is noted. Raises Stopped, also when the time is up."""
        if self.left() <= 0:
            raise Stopped
        config = short_run(entry.arm.config, factor, steps, seed)
        number = f", seed {seed + 1}" if seed else ""
        self.doing = f"{entry.title}, {plural(steps, 'step')} at {factor:g} × its learning rate{number}"
        self.show()
        try:
            trained = self.train(config, rows)
        except UserError as error:
            entry.state, entry.note = FAILED, error.problem
            return None
        entry.costs = trained.costs
        return trained

    def _planned(self) -> float:
        return self.left() * (1 - RESERVE)

    def _known_costs(self) -> Costs:
        """Those of the slowest arm so far."""
        return max((item.costs for item in self.entries if item.costs), key=lambda costs: costs.step)


def short_run(config: RunConfig, factor: float, steps: int, seed: int = 0) -> RunConfig:
    """The run of a rung: a whole schedule of `steps` steps, at `factor` times all of the configured rates."""
    rated = rate_ladder.Rung(factor, factor).applied(config)
    seeded = (rated.training.seed + seed) % 2**32
    return replace(rated, training=replace(rated.training, max_steps=steps, seed=seeded, samples=0))


def neighbors(rungs: Sequence[Rung], key: str) -> tuple[float, ...]:
    """The rates for the next rung: the best one, and the next higher one if it is the highest that was ever tried,
    else half of it, since a longer schedule wants a lower rate."""
    best = rungs[-1].best_factor(key)
    if not math.isfinite(rungs[-1].loss(key)):
        return best, best / SCOUT_STRIDE
    highest = max(max(rung.factors[key]) for rung in rungs if key in rung.factors)
    return (best, best * 2) if best == highest else (best, best / 2)
