"""How long runs will take, by what earlier runs of the same model took on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from statistics import median

from trainer import devices, events
from trainer.config import DataConfig, RunConfig, Tick
from trainer.runs import Run, RunStore

LOOKED_AT = 40
"""Newest runs that are looked at."""
LEAST_STEPS = 5
"""The first steps are slower than the others."""
HEAD_BYTES = 65536
"""The first events of a run lie within so many bytes."""


@dataclass(frozen=True)
class Pace:
    """What one earlier run tells."""

    modules: tuple[Tick, ...]
    data: DataConfig
    examples: int
    """In its training data."""
    seconds: float
    """Per example, evals included."""
    startup: float
    """Seconds before its first step."""


def paces(store: RunStore, config: RunConfig) -> list[Pace]:
    """What earlier runs of the same model with the same length tell, newest first."""
    found = []
    for run_id in store.ids()[:LOOKED_AT]:
        try:
            run = store.get(run_id)
        except Exception:  # deleted meanwhile
            continue
        pace = _pace(run, config)
        if pace is not None:
            found.append(pace)
    return found


def seconds(config: RunConfig, known: list[Pace]) -> float | None:
    """How long one run of `config` will take; None where nothing known tells."""
    size = next((pace.examples for pace in known if pace.data == config.data and pace.examples), 0)
    steps = steps_of(config, size)
    if not known or not steps:
        return None
    alike = [pace for pace in known if pace.modules == config.modules] or known
    each = median(pace.seconds for pace in alike)
    return median(pace.startup for pace in alike) + steps * batch(config) * each


def total(configs: Iterable[RunConfig], known: list[Pace]) -> float | None:
    """How long all of them will take on the devices of this machine; None where that is not known."""
    times = [seconds(config, known) for config in configs]
    sure = [time for time in times if time is not None]
    return sum(sure) / len(devices.devices()) if len(sure) == len(times) else None


def batch(config: RunConfig) -> int:
    return config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps


def steps_of(config: RunConfig, examples: int) -> int:
    """Steps of a run over so many examples, as transformers counts them; 0 where that is not known."""
    training = config.training
    if training.max_steps > 0:
        return training.max_steps
    batches = ceil(examples / training.per_device_train_batch_size)
    return ceil(ceil(batches / training.gradient_accumulation_steps) * training.num_train_epochs)


def _pace(run: Run, config: RunConfig) -> Pace | None:
    history, own = run.history, run.config
    if own is None or own.model != config.model or own.training.max_length != config.training.max_length:
        return None
    if history.step < LEAST_STEPS or not history.elapsed():
        return None
    each = history.elapsed() / (history.step * batch(own))
    return Pace(own.modules, own.data, history.examples, each, _startup(run.folder))


@lru_cache(maxsize=512)
def _startup(folder: Path) -> float:
    """Seconds from the worker's start to the first step of a run that has taken steps."""
    try:
        with (folder / "events.jsonl").open("rb") as file:
            head = list(events.parse(file.read(HEAD_BYTES)))
    except OSError:
        return 0.0
    times = {event.get("state"): event["time"] for event in reversed(head) if event["type"] == "state"}
    return max(0.0, times.get("running", 0.0) - times.get("starting", 0.0)) if "running" in times else 0.0
