"""A race as JSON: what page and command line follow while it runs, and the answer so far, with its configuration.

The recommended learning rate is not the one that won: a short run wants a higher one. It is scaled by the square
root of the batch, as Adam's noise asks for (Malladi et al., arXiv:2205.10287), and by the inverse square root of the
steps, a rule of thumb.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

from trainer.common.formatting import rate_text
from trainer.config.schema import RunConfig
from trainer.experiments import rate_ladder
from trainer.experiments.race.halving import SEEDS
from trainer.experiments.race.race import Race
from trainer.experiments.race.ranking import Place, conclusion, ranking
from trainer.planning.schedule import batch_size, peak_rate


def to_json(race: Race, config: RunConfig, run_steps: int) -> dict[str, Any]:
    """The state of a race. `config`: the user's own, for the run that is to come; `run_steps`: its steps."""
    places = {place.key: (number, place) for number, place in enumerate(ranking(race.rungs), 1)}
    arms = []
    for entry in race.entries:
        number, place = places.get(entry.key, (None, None))
        arm = {
            "key": entry.key,
            "title": entry.title,
            "note": entry.note or entry.arm.scenario.note,
            "state": entry.state,
            "place": number,
            "r": entry.arm.r,
            "trainable": entry.arm.plan.trainable,
            "adapter_bytes": entry.arm.plan.adapter_bytes,
            "memory": entry.arm.plan.needed,
            "learning_rate": _raced_rate(entry.arm.config, place) if place else None,
        }
        arms.append(arm | (place.to_json() if place else {}))
    arms.sort(key=lambda arm: (arm["place"] is None, arm["place"] or 0))
    return {
        "doing": race.doing,
        "sizes": list(race.sizes),
        "rungs": [{"arms": len(rung.arms), "steps": rung.steps, "rows": rung.rows} for rung in race.rungs],
        "seeds": SEEDS,
        "arms": arms,
        "answer": _answer(race, {key: place for key, (_, place) in places.items()}, config, run_steps),
    }


def _answer(race: Race, places: dict[str, Place], config: RunConfig, run_steps: int) -> dict[str, Any] | None:
    titles = {entry.key: entry.title for entry in race.entries}
    found = conclusion(race.rungs, titles, {key: place.step_seconds for key, place in places.items()})
    if found is None:
        return None
    arm, place = race.entry(found.key).arm, places[found.key]
    factor = place.factor * sqrt(place.steps / run_steps) * sqrt(batch_size(config.training) / race.shape.batch)
    chosen = replace(config, modules=arm.config.modules, adapter=arm.config.adapter)
    chosen = rate_ladder.Rung(factor := float(f"{factor:.2g}"), factor).applied(chosen)
    rate = rate_text(float(f"{peak_rate(chosen.training, _treatment(chosen)):.2g}"))
    raced = f"{rate_text(_raced_rate(arm.config, place))} was best over {place.steps} steps"
    return {
        "key": found.key,
        "title": titles[found.key],
        "sentence": found.sentence,
        "shown": found.shown,
        "rate": f"Learning rate {rate}: {raced} of {race.shape.batch} rows, scaled to {run_steps:,} steps of "
        f"{batch_size(config.training)}.",
        "config": chosen.to_json(),
    }


def _raced_rate(config: RunConfig, place: Place) -> float:
    """The learning rate that an arm was best at, of its LoRA if it has any."""
    raced = rate_ladder.Rung(place.factor, place.factor).applied(config)
    return float(f"{peak_rate(raced.training, _treatment(raced)):.3g}")


def _treatment(config: RunConfig) -> str:
    return "lora" if any(tick.treatment == "lora" for tick in config.modules) else "full"
