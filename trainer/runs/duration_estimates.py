"""How long runs will take, estimated from earlier runs of the same model on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from trainer.common import devices
from trainer.common.bounded_files import DamagedFile
from trainer.common.errors import UserError
from trainer.config.schema import DataConfig, ModelConfig, RunConfig, Tick
from trainer.planning.schedule import Size, examples_seen, total_tokens
from trainer.runs import event_rows
from trainer.runs.run import Run
from trainer.runs.store import RunStore

MAX_RUNS = 40
"""Number of newest runs to consider."""
MIN_STEPS = 5
"""Runs with fewer steps are ignored: the first steps are slower."""
HEAD_BYTES = 65536
"""The first events of a run are within these bytes."""
LONGEST_STARTUP = 86_400.0
"""Seconds; a start that took longer was a clock that was set."""


@dataclass(frozen=True)
class Pace:
    """The pace of one earlier run."""

    modules: tuple[Tick, ...]
    data: DataConfig
    max_length: int
    size: Size
    seconds: float
    """Seconds per token, including evals."""
    startup: float
    """Seconds before its first step."""


def paces(store: RunStore, model: ModelConfig) -> list[Pace]:
    """The paces of earlier runs of the same model, newest first."""
    result = []
    for run_id in store.ids()[:MAX_RUNS]:
        try:
            run = store.get(run_id)
        except UserError:  # deleted in the meantime
            continue
        pace = _pace(run, model)
        if pace is not None:
            result.append(pace)
    return result


def seconds(config: RunConfig, known: list[Pace], size: Size | None = None) -> float | None:
    """Estimated seconds of one run of `config`; None if unknown.

    `size`: of its data, if they have been read; otherwise taken from earlier runs on the same data.
    """
    size = size or _size(config, known)
    tokens = total_tokens(config.training, size) if size else 0
    if not known or not tokens:
        return None
    alike = [pace for pace in known if pace.modules == config.modules] or known
    return median(pace.startup for pace in alike) + tokens * median(pace.seconds for pace in alike)


def size_of(report: dict[str, Any]) -> Size | None:
    """The size of the data, from their report."""
    tokens = report["tokens"]
    return Size(tokens["examples"], tokens["total"] / tokens["examples"]) if tokens and tokens["examples"] else None


def with_seconds(report: dict[str, Any], config: RunConfig, known: list[Pace]) -> dict[str, Any]:
    """The data report with the estimated seconds of training on them; None if unknown."""
    training = report["training"]
    if training is None:
        return report
    return report | {"training": training | {"seconds": seconds(config, known, size_of(report))}}


def total(configs: Iterable[RunConfig], known: list[Pace], size: Size | None = None) -> float | None:
    """Estimated seconds of all of them on this machine's devices; None if unknown."""
    times = [seconds(config, known, size) for config in configs]
    estimates = [time for time in times if time is not None]
    return sum(estimates) / len(devices.devices()) if len(estimates) == len(times) else None


def _size(config: RunConfig, known: list[Pace]) -> Size | None:
    """The size of the same data in an earlier run; for other data, only the length of their examples."""
    for pace in known:
        if pace.data == config.data and pace.max_length == config.training.max_length and pace.size.examples:
            return pace.size
    return Size(0, known[0].size.length) if known else None


def _pace(run: Run, model: ModelConfig) -> Pace | None:
    history, config = run.history, run.config
    tokens, elapsed = history.latest.get("tokens"), history.elapsed()
    if config is None or config.model != model or history.step < MIN_STEPS or not tokens or not elapsed:
        return None
    length = tokens / examples_seen(config.training, history.step, history.examples)
    return Pace(
        config.modules, config.data, config.training.max_length, Size(history.examples, length), elapsed / tokens,
        _startup(run.folder),
    )  # fmt: skip


@lru_cache(maxsize=512)
def _startup(folder: Path) -> float:
    """Seconds from the worker's start to the first step."""
    times: dict[str, float] = {}
    with contextlib.suppress(DamagedFile, OSError), event_rows.open_events(folder / "events.jsonl") as file:
        for row, _ in event_rows.rows(file, 0, HEAD_BYTES):
            event = event_rows.parse(row) or {}
            if event.get("state") in ("starting", "running") and event_rows.is_number(event.get("time")):
                times.setdefault(event["state"], event["time"])
    seconds = times["running"] - times["starting"] if len(times) == 2 else 0.0
    return seconds if 0 <= seconds < LONGEST_STARTUP else 0.0
