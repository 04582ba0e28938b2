"""How long runs will take, estimated from earlier runs of the same model on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from trainer.common import devices
from trainer.common.errors import UserError
from trainer.config.schema import DataConfig, ModelConfig, RunConfig, Tick
from trainer.planning.schedule import Size, examples_seen, total_tokens
from trainer.runs import event_log
from trainer.runs.store import Run, RunStore

LOOKED_AT = 40
"""Newest runs that are looked at."""
LEAST_STEPS = 5
"""The first steps are slower than the others."""
HEAD_BYTES = 65536
"""The first events of a run lie within so many bytes."""


@dataclass(frozen=True)
class Pace:
    """What one earlier run shows."""

    modules: tuple[Tick, ...]
    data: DataConfig
    max_length: int
    size: Size
    seconds: float
    """Per token, evals included."""
    startup: float
    """Seconds before its first step."""


def paces(store: RunStore, model: ModelConfig) -> list[Pace]:
    """What earlier runs of the same model show, newest first."""
    found = []
    for run_id in store.ids()[:LOOKED_AT]:
        try:
            run = store.get(run_id)
        except UserError:  # deleted meanwhile
            continue
        pace = _pace(run, model)
        if pace is not None:
            found.append(pace)
    return found


def seconds(config: RunConfig, known: list[Pace], size: Size | None = None) -> float | None:
    """How long one run of `config` will take; None if nothing is known.

    `size`: of its data, where they have been read; else earlier runs on the same data tell.
    """
    size = size or _size(config, known)
    tokens = total_tokens(config.training, size) if size else 0
    if not known or not tokens:
        return None
    alike = [pace for pace in known if pace.modules == config.modules] or known
    return median(pace.startup for pace in alike) + tokens * median(pace.seconds for pace in alike)


def size_of(report: dict[str, Any]) -> Size | None:
    """The size of data that were read, by their report."""
    tokens = report["tokens"]
    return Size(tokens["examples"], tokens["total"] / tokens["examples"]) if tokens and tokens["examples"] else None


def with_seconds(report: dict[str, Any], config: RunConfig, known: list[Pace]) -> dict[str, Any]:
    """The report on data with the seconds that training on them takes; None if nothing is known."""
    training = report["training"]
    if training is None:
        return report
    return report | {"training": training | {"seconds": seconds(config, known, size_of(report))}}


def total(configs: Iterable[RunConfig], known: list[Pace], size: Size | None = None) -> float | None:
    """How long all of them will take on the devices of this machine; None where that is not known."""
    times = [seconds(config, known, size) for config in configs]
    sure = [time for time in times if time is not None]
    return sum(sure) / len(devices.devices()) if len(sure) == len(times) else None


def _size(config: RunConfig, known: list[Pace]) -> Size | None:
    """Of the same data in an earlier run; of other data, the length of their examples alone."""
    for pace in known:
        if pace.data == config.data and pace.max_length == config.training.max_length and pace.size.examples:
            return pace.size
    return Size(0, known[0].size.length) if known else None


def _pace(run: Run, model: ModelConfig) -> Pace | None:
    history, own = run.history, run.config
    tokens, elapsed = history.latest.get("tokens"), history.elapsed()
    if own is None or own.model != model or history.step < LEAST_STEPS or not tokens or not elapsed:
        return None
    length = tokens / examples_seen(own.training, history.step, history.examples)
    return Pace(
        own.modules, own.data, own.training.max_length, Size(history.examples, length), elapsed / tokens,
        _startup(run.folder),
    )  # fmt: skip


@lru_cache(maxsize=512)
def _startup(folder: Path) -> float:
    """Seconds from the worker's start to the first step of a run that has taken steps."""
    try:
        with (folder / "events.jsonl").open("rb") as file:
            head = list(event_log.parse(file.read(HEAD_BYTES)))
    except OSError:
        return 0.0
    times = {event.get("state"): event["time"] for event in reversed(head) if event["type"] == "state"}
    return max(0.0, times.get("running", 0.0) - times.get("starting", 0.0)) if "running" in times else 0.0
