"""attribution.json: what each module earned in a run, measured after it on some of the held-out rows.

A part is one module, or one slice of a fused one, with how it was trained. Its share is what path attribution gives
it of the gain, the loss of the base model minus that of the trained one, in nats per token. Losses of rows are sums
over their counted tokens.
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
from trainer.runs.index import stamp_of

FILE = "attribution.json"
MAX_BYTES = 2**25
MAX_TEXT = 400
MAX_PARTS, MAX_KINDS = 20_000, 100
"""The largest published models have fewer."""
MAX_ROWS, MIN_ROWS = 64, 4
MAX_TOKENS = 8192
"""Of the rows that are measured, together; MIN_ROWS are measured however long they are."""
POINTS = (5, 10, 20)
"""Gauss–Legendre points of the path; more are only taken where fewer do not add up."""
GRADIENT_COST = 3
"""Passes over the rows that one with gradients takes as long as."""
TOLERANCE = 0.01
"""Shares add up if their sum is within this of the gain, relative to it."""


@dataclass(frozen=True)
class Part:
    """What one module, or one slice of it, earned."""

    module: str
    """Full name; of a slice, that of its fused module."""
    kind: str
    treatment: str
    """lora, full, or rows (of new tokens)."""
    layer: int | None
    """None outside the layers."""
    share: float
    """Of the gain, in nats per token; negative if it raised the loss."""
    output: float | None = None
    """Energy (sum of squares) of what its adapter adds to the module's output over that of the output itself, at the
    tokens that count; None where it is not measured: only LoRA without DoRA on linears has an output of its own."""


@dataclass(frozen=True)
class KindLosses:
    """Losses of the rows without one kind's training, and with nothing else."""

    kind: str
    treatment: str
    off: np.ndarray
    """All of the training but this kind's."""
    only: np.ndarray
    """This kind's training alone."""


@dataclass(frozen=True)
class Attribution:
    """One measurement."""

    step: int
    """Steps that the adapter had been trained for."""
    held_out: int
    """Held-out rows of the run, of which `tokens` has those that were measured."""
    tokens: np.ndarray
    """Counted tokens of each row."""
    before: np.ndarray
    """Losses of the rows with the base model."""
    after: np.ndarray
    """The same with all of the training."""
    points: int
    """Gauss–Legendre points of the path."""
    parts: tuple[Part, ...]
    kinds: tuple[KindLosses, ...]
    seconds: float
    device: str

    @property
    def gain(self) -> float:
        """How much training lowered the loss on these rows, in nats per token."""
        return float((self.before - self.after).sum() / self.tokens.sum())

    @property
    def error(self) -> float:
        """By how much the sum of the shares misses the gain, relative to it."""
        missed = abs(math.fsum(part.share for part in self.parts) - self.gain)
        return missed / abs(self.gain) if self.gain else math.inf if missed else 0.0

    @property
    def adds_up(self) -> bool:
        return self.error <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        for item in (value, *value["kinds"]):
            item |= {key: np.round(part, 6).tolist() for key, part in item.items() if isinstance(part, np.ndarray)}
        return value


def passes(kinds: int) -> int:
    """Passes over the rows that a measurement takes, as a rule: the path, each kind off and alone, and three more."""
    return POINTS[0] * GRADIENT_COST + 2 * kinds + 3


def record(folder: Path, found: Attribution) -> None:
    """Write a measurement, in the place of an earlier one. Raises OSError, and ValueError for NaN and infinity."""
    atomic.write(folder / FILE, json.dumps(found.to_json(), allow_nan=False, separators=(",", ":")))


def read(folder: Path) -> Attribution | None:
    """The run's newest measurement; None if there is none, or it is damaged."""
    return _read(folder, tuple(stamp_of(f"{folder}/{FILE}")))


@lru_cache(maxsize=64)
def _read(folder: Path, _stamp: tuple[int, ...]) -> Attribution | None:
    try:
        return _parsed(bounded_files.read_json(folder / FILE, MAX_BYTES))
    except (DamagedFile, KeyError, TypeError, ValueError, OverflowError):
        return None


def _parsed(value: dict[str, Any]) -> Attribution:
    """Raises KeyError, TypeError, ValueError or OverflowError."""
    tokens = numbers(value["tokens"], None)
    if not len(tokens) or tokens.min() < 0 or not tokens.sum():
        raise ValueError
    parts = tuple(_part(item) for item in value["parts"])
    kinds = tuple(
        KindLosses(
            _text(item["kind"]), _text(item["treatment"]), *(numbers(item[key], tokens) for key in ("off", "only"))
        )
        for item in value["kinds"]
    )
    known = {(losses.kind, losses.treatment) for losses in kinds}
    if not parts or len(parts) > MAX_PARTS or len(kinds) > MAX_KINDS:
        raise ValueError
    if known != {(part.kind, part.treatment) for part in parts}:
        raise ValueError
    return Attribution(
        step=int(value["step"]),
        held_out=int(value["held_out"]),
        tokens=tokens,
        before=numbers(value["before"], tokens),
        after=numbers(value["after"], tokens),
        points=int(value["points"]),
        parts=parts,
        kinds=kinds,
        seconds=_number(value["seconds"]),
        device=_text(value["device"]),
    )


def _part(item: dict[str, Any]) -> Part:
    layer, output, share = item["layer"], item["output"], _number(item["share"])
    return Part(
        module=_text(item["module"]),
        kind=_text(item["kind"]),
        treatment=_text(item["treatment"]),
        layer=None if layer is None else int(layer),
        share=share,
        output=None if output is None else _number(output),
    )


def numbers(value: Any, like: np.ndarray | None) -> np.ndarray:
    """A list of finite numbers, as many as in `like`. Raises TypeError or ValueError."""
    found = np.asarray(value, dtype=float)
    if found.ndim != 1 or not np.isfinite(found).all() or (like is not None and found.shape != like.shape):
        raise ValueError
    return found


def _number(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value[:MAX_TEXT]
