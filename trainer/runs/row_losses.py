"""row_losses.json: the loss of every held-out example before and after training, so that runs compare row by row.

By the name of the set ("held_out", "general"): {"examples": which ones, as a hash, "tokens": counted tokens of each,
"before": summed loss of each with the base model, "after": the same after `step` steps}. A loss is in nats. Task
scores ("exact_match", "contains") are sets, too: the loss of a prompt is 1 if its answer is wrong, else 0. Runs of
earlier versions have no such file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from trainer.common import atomic, bounded_files
from trainer.common.bounded_files import DamagedFile
from trainer.common.formatting import LOSS_DECIMALS, loss
from trainer.runs.index import stamp_of

FILE = "row_losses.json"
HELD_OUT, GENERAL, EXACT_MATCH, CONTAINS = "held_out", "general", "exact_match", "contains"
MAX_BYTES = 2**25
"""About half a million examples."""
DIGITS = 6
"""Decimals that are kept of a summed loss."""


@dataclass(frozen=True)
class RowLosses:
    """The losses of one set of examples, in their order."""

    examples: str
    """Equal for equal examples in the same order."""
    tokens: np.ndarray
    before: np.ndarray | None
    after: np.ndarray | None
    step: int
    """Of `after`."""

    @property
    def mean(self) -> float | None:
        """The mean loss after training, over all counted tokens."""
        return None if self.after is None else float(self.after.sum() / self.tokens.sum())

    @property
    def rise(self) -> float | None:
        """How much the mean loss over all counted tokens rose in training; None if one of both is unknown."""
        if self.before is None or self.after is None:
            return None
        return float((self.after - self.before).sum() / self.tokens.sum())

    @property
    def sentence(self) -> str:
        """Mean loss before and after, and the difference; empty if one of both is unknown."""
        if self.before is None or self.after is None or self.rise is None:
            return ""
        before, after = (float(losses.sum() / self.tokens.sum()) for losses in (self.before, self.after))
        return f"{loss(before)} before training, {loss(after)} after ({self.rise:+.{LOSS_DECIMALS}f})"


def hash_of(keys: np.ndarray) -> str:
    """Names a set of examples by their keys."""
    return hashlib.sha256(np.ascontiguousarray(keys, dtype="<u8").tobytes()).hexdigest()[:16]


def record(folder: Path, name: str, examples: str, step: int, losses: np.ndarray, tokens: np.ndarray) -> None:
    """Write what one evaluation found; `losses`: sums over the tokens of each example. Step 0 is before training."""
    if not np.isfinite(losses).all():
        return  # the run fails, or has nothing that could be compared
    stored = _stored(folder)
    earlier = stored.get(name, {})
    found = {
        "examples": examples,
        "tokens": tokens.astype(int).tolist(),
        "before": earlier.get("before") if earlier.get("examples") == examples else None,
        "after": None,
        "step": step,
    }
    found["after" if step else "before"] = np.round(losses.astype(float), DIGITS).tolist()
    atomic.write(folder / FILE, json.dumps(stored | {name: found}, allow_nan=False, separators=(",", ":")))


def read(folder: Path) -> dict[str, RowLosses]:
    """The sets of a run, by name; those that are damaged are left out."""
    return _read(folder, tuple(stamp_of(f"{folder}/{FILE}")))


@lru_cache(maxsize=512)
def _read(folder: Path, _stamp: tuple[int, ...]) -> dict[str, RowLosses]:
    return {name: found for name, value in _stored(folder).items() if (found := _parsed(value)) is not None}


def _stored(folder: Path) -> dict[str, Any]:
    try:
        value = bounded_files.read_json(folder / FILE, MAX_BYTES)
    except DamagedFile:
        return {}
    return {name: item for name, item in value.items() if isinstance(item, dict)} if isinstance(value, dict) else {}


def _parsed(value: dict[str, Any]) -> RowLosses | None:
    try:
        tokens = np.asarray(value["tokens"], dtype=float)
        before, after = (
            None if value[name] is None else np.asarray(value[name], dtype=float) for name in ("before", "after")
        )
        parts = [tokens, *(part for part in (before, after) if part is not None)]
        whole = all(part.shape == (len(tokens),) and np.isfinite(part).all() for part in parts)
        if not whole or not len(tokens) or tokens.min() < 0 or not tokens.sum():
            return None
        return RowLosses(str(value["examples"]), tokens, before, after, int(value["step"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
