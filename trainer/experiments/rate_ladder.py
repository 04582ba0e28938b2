"""Learning-rate ladders: a scenario is run at several rates, and its best one is what it is compared by.

Compared at a single rate, selections are ranked by how well that rate happens to suit them. LoRA and modules trained
in full have a ladder each, since their best rates have little to do with each other; each is climbed with the other
rate as configured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trainer.common.errors import UserError
from trainer.config.schema import RunConfig, Tick
from trainer.planning import schedule

FACTORS = (0.5, 1.0, 2.0)
"""The default ladder, as factors of the configured rate."""
SINGLE = (1.0,)
LOWEST, HIGHEST = 1 / 64, 64.0
MOST = 9
"""Rungs of a ladder."""


@dataclass(frozen=True, order=True)
class Rung:
    """The factors of LoRA's learning rate and of that of modules trained in full."""

    lora: float = 1.0
    full: float = 1.0

    @property
    def title(self) -> str:
        """Such as "lr × 2"; empty at the configured rates."""
        parts = [f"lr × {self.lora:g}"] * (self.lora != 1) + [f"full lr × {self.full:g}"] * (self.full != 1)
        return ", ".join(parts)

    @property
    def name(self) -> str:
        """As `title`, also of the configured rates."""
        return self.title or "lr × 1"

    def applied(self, config: RunConfig) -> RunConfig:
        """The configuration with these rates. A rate above 1, which no setting allows, becomes 1."""
        training = config.training
        if self == Rung():
            return config
        ticks = tuple(
            replace(tick, lr=_bounded(tick.lr, self._of(tick))) if tick.lr else tick for tick in config.modules
        )
        full = training.full_learning_rate
        if any(tick.treatment == "full" for tick in ticks):  # else it would be shown as a setting that differs
            full = _bounded(schedule.peak_rate(training, "full"), self.full)
        rate = _bounded(training.learning_rate, self.lora)
        changed = replace(training, learning_rate=rate, full_learning_rate=full)
        return replace(config, modules=ticks, training=changed)

    def _of(self, tick: Tick) -> float:
        return self.full if tick.treatment == "full" else self.lora


def _bounded(rate: float, factor: float) -> float:
    """A rate times a factor, without the noise of the last digits."""
    return min(1.0, float(f"{rate * factor:.12g}"))


def ladder(config: RunConfig, factors: Sequence[float]) -> tuple[Rung, ...]:
    """The rungs of a configuration, the configured rates first."""
    treatments = {tick.treatment for tick in config.modules}
    found = [Rung()] if 1.0 in factors else []
    if "lora" in treatments or not treatments:
        found += [Rung(lora=factor) for factor in factors]
    if "full" in treatments:
        found += [Rung(full=factor) for factor in factors]
    return tuple(dict.fromkeys(found))


def parse(text: str) -> tuple[float, ...]:
    """Factors from a text such as "0.5, 1, 2", rising. Raises UserError."""
    try:
        factors = sorted({float(part) for part in text.replace("×", " ").replace(",", " ").split()})
    except ValueError:
        factors = []
    if not 1 <= len(factors) <= MOST or not all(LOWEST <= factor <= HIGHEST for factor in factors):
        raise UserError(
            f"The learning rates to try are not valid: {text[:60]!r}.",
            f"Write 1 to {MOST} factors of the configured rate between 1/64 and 64, such as 0.5, 1, 2.",
            "data",
        )
    return tuple(factors)


def edges(tried: Sequence[Rung], best: Rung) -> list[str]:
    """Which of the best rung's rates are the lowest or highest that was tried, in words; none if only one was."""
    found = []
    for name, title in (("lora", "learning rate"), ("full", "learning rate (full)")):
        values = sorted({getattr(rung, name) for rung in tried})
        own = getattr(best, name)
        if len(values) > 1 and own in (values[0], values[-1]):
            found.append(f"{'lowest' if own == values[0] else 'highest'} {title}")
    return found
