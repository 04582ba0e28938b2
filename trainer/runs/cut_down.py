"""cut_down.json: what a run's adapter loses when the small directions of its updates are dropped.

Losses of rows are sums over their counted tokens; those on general text are means per token.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from trainer.common import atomic, bounded_files
from trainer.common.bounded_files import DamagedFile
from trainer.runs.attribution import numbers
from trainer.runs.index import stamp_of

FILE = "cut_down.json"
MAX_BYTES = 2**25


@dataclass(frozen=True)
class Level:
    """The adapter with a part of its energy."""

    kept: float
    """Share of the energy of all updates that is kept."""
    ranks: dict[str, int]
    """By module; 0 if its LoRA is dropped."""
    parameters: int
    """Of the whole adapter then."""
    losses: np.ndarray
    general: float


@dataclass(frozen=True)
class CutDown:
    """One measurement of all levels."""

    step: int
    """Steps that the adapter had been trained for."""
    held_out: int
    tokens: np.ndarray
    """Counted tokens of each measured held-out row."""
    before: np.ndarray
    """Losses of the rows with the base model."""
    after: np.ndarray
    """The same with the whole adapter."""
    general_before: float
    general_after: float
    ranks: dict[str, int]
    """Of the whole adapter, by module."""
    parameters: int
    levels: tuple[Level, ...]
    """Those that keep the most first."""


def record(folder: Path, found: CutDown) -> None:
    """Write a measurement, in the place of an earlier one. Raises OSError, and ValueError for NaN and infinity."""
    value = asdict(found)
    for item in (value, *value["levels"]):
        item |= {key: np.round(part, 6).tolist() for key, part in item.items() if isinstance(part, np.ndarray)}
    atomic.write(folder / FILE, json.dumps(value, allow_nan=False, separators=(",", ":")))


def read(folder: Path) -> CutDown | None:
    """The run's newest measurement; None if there is none, or it is damaged."""
    return _read(folder, tuple(stamp_of(f"{folder}/{FILE}")))


@lru_cache(maxsize=64)
def _read(folder: Path, _stamp: tuple[int, ...]) -> CutDown | None:
    try:
        return _parsed(bounded_files.read_json(folder / FILE, MAX_BYTES))
    except (DamagedFile, KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return None


def _parsed(value: dict[str, Any]) -> CutDown:
    """Raises KeyError, TypeError, ValueError, OverflowError or AttributeError."""
    tokens = numbers(value["tokens"], None)
    if not len(tokens) or tokens.min() < 0 or not tokens.sum():
        raise ValueError
    levels = tuple(
        Level(
            _finite(item["kept"]),
            _ranks(item["ranks"]),
            int(item["parameters"]),
            numbers(item["losses"], tokens),
            _finite(item["general"]),
        )
        for item in value["levels"]
    )
    return CutDown(
        step=int(value["step"]),
        held_out=int(value["held_out"]),
        tokens=tokens,
        before=numbers(value["before"], tokens),
        after=numbers(value["after"], tokens),
        general_before=_finite(value["general_before"]),
        general_after=_finite(value["general_after"]),
        ranks=_ranks(value["ranks"]),
        parameters=int(value["parameters"]),
        levels=levels,
    )


def _ranks(value: dict[str, Any]) -> dict[str, int]:
    return {str(name): int(rank) for name, rank in value.items()}


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError
    return float(value)
