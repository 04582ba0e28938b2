"""What a run's attribution says: by kind, with intervals over the held-out rows, and by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import fsum, isfinite
from typing import Any

import numpy as np

from trainer.common.formatting import duration, loss, percent
from trainer.config.schema import TrainingConfig
from trainer.experiments.statistics import Results, difference
from trainer.planning.schedule import batch_size
from trainer.runs.attribution import GRADIENT_COST, MAX_ROWS, MAX_TOKENS, MIN_ROWS, Attribution, Part, passes
from trainer.runs.history import History
from trainer.runs.row_losses import RowLosses

LEVEL = 0.95
"""Of the intervals."""
NOT_A_COST = "Retraining without a module usually costs far less than its share: the others learn to make up for it."
DOES_NOT_ADD_UP = (
    "That is more than 1 %, so do not rely on them. In a mixture of experts, what it does to the loss that tokens "
    "change their experts belongs to no module."
)
MEANING = f"A share is a share of this run's gain. {NOT_A_COST}"


@dataclass(frozen=True)
class Effect:
    """A difference in loss, in nats per token."""

    mean: float
    half_width: float | None
    """Of its 95 % interval over the choice of held-out rows; None for a single row."""

    @property
    def text(self) -> str:
        width = "" if self.half_width is None else f" ± {loss(self.half_width)}"
        return f"{'−' if self.mean < 0 else '+'}{loss(abs(self.mean))}{width}"


@dataclass(frozen=True)
class Earned:
    """What one kind, or one layer, earned."""

    name: str
    """A kind, or the number of a layer; empty outside the layers."""
    treatment: str
    modules: int
    share: float
    """In nats per token."""
    of_gain: float | None
    """The same as a share of the gain; None where training did not lower the loss."""

    @property
    def text(self) -> str:
        return share_text(self.share, self.of_gain)


@dataclass(frozen=True)
class EarnedByKind(Earned):
    """What one kind earned, and what its training does by itself."""

    off: Effect
    """How much the loss of the trained model rises without it."""
    only: Effect
    """How much it alone lowers the loss of the base model."""
    output: float | None
    """Mean energy that its adapters add to their modules' outputs, relative to these; None if not measured."""


def by_kind(found: Attribution) -> list[EarnedByKind]:
    """The kinds, the one that earned the most first."""
    rows = []
    for losses in found.kinds:
        parts = [part for part in found.parts if (part.kind, part.treatment) == (losses.kind, losses.treatment)]
        outputs = [part.output for part in parts if part.output is not None]
        rows.append(
            EarnedByKind(
                *_sums(losses.kind, losses.treatment, parts, found.gain),
                off=effect(found.tokens, found.after, losses.off),
                only=effect(found.tokens, losses.only, found.before),
                output=float(np.mean(outputs)) if outputs else None,
            )
        )
    return sorted(rows, key=lambda row: -row.share)


def by_layer(found: Attribution) -> list[Earned]:
    """The layers in order; what is outside of them comes last."""
    layers = sorted({part.layer for part in found.parts}, key=lambda layer: (layer is None, layer or 0))
    return [
        Earned(
            *_sums(
                "" if layer is None else str(layer),
                "",
                [part for part in found.parts if part.layer == layer],
                found.gain,
            )
        )
        for layer in layers
    ]


def cells(found: Attribution) -> tuple[list[str], list[str], list[list[float | None]]]:
    """The heatmap: kinds, layers, and the share of each layer's part of a kind; None where it was not trained."""
    kinds, layers = [row.name for row in by_kind(found)], [row.name for row in by_layer(found)]
    table: list[list[float | None]] = [[None] * len(kinds) for _ in layers]
    for part in found.parts:
        row, column = layers.index("" if part.layer is None else str(part.layer)), kinds.index(part.kind)
        table[row][column] = (table[row][column] or 0.0) + part.share
    return kinds, layers, table


def sentences(found: Attribution) -> tuple[str, ...]:
    """What was measured, whether it adds up, and what a share is not."""
    total = fsum(part.share for part in found.parts)
    rows = f"{len(found.tokens):,} of {found.held_out:,} held-out rows ({found.tokens.sum():,.0f} counted tokens)"
    before, after = (float(losses.sum() / found.tokens.sum()) for losses in (found.before, found.after))
    gain = f"Training took the loss on {rows} from {loss(before)} to {loss(after)}: a gain of {loss(found.gain)}."
    off = f", {percent(found.error)} off" if isfinite(found.error) else ""
    sums = f"The shares add up to {loss(total)}{off}, with {found.points} points of the path."
    where = "the CPU" if found.device == "cpu" else found.device
    doubt = "" if found.adds_up else f" {DOES_NOT_ADD_UP}"
    if found.gain <= 0:
        doubt += " Training did not lower the loss on these rows, so the shares are in nats per token."
    return gain, f"{sums}{doubt}", MEANING, f"Measured in {duration(found.seconds)} on {where}."


def share_text(share: float, of_gain: float | None) -> str:
    """A share of the gain; in nats per token where there is none."""
    value, text = (share, loss(abs(share))) if of_gain is None else (of_gain, percent(abs(of_gain)))
    return f"{'−' if value < 0 else ''}{text}"


def seconds(history: History, training: TrainingConfig, kinds: int) -> float | None:
    """About how long measuring takes once the model is loaded, by the run's own speed; None if that is unknown."""
    speed, tokens = history.latest.get("tokens_per_second"), history.latest.get("tokens")
    if not speed or not tokens or not history.step:
        return None
    length = tokens / (history.step * batch_size(training))
    measured = min(MAX_ROWS * length, max(MAX_TOKENS, MIN_ROWS * length))
    return measured * passes(kinds) / (GRADIENT_COST * speed)


def to_json(found: Attribution) -> dict[str, Any]:
    """What the command line prints as JSON."""
    return {
        "step": found.step,
        "rows": len(found.tokens),
        "held_out": found.held_out,
        "tokens": int(found.tokens.sum()),
        "gain": found.gain,
        "error": found.error if isfinite(found.error) else None,
        "adds_up": found.adds_up,
        "points": found.points,
        "kinds": [asdict(row) for row in by_kind(found)],
        "layers": [asdict(row) for row in by_layer(found)],
        "modules": [asdict(part) for part in found.parts],
        "seconds": found.seconds,
        "device": found.device,
        "note": MEANING,
    }


def _sums(name: str, treatment: str, parts: Sequence[Part], gain: float) -> tuple[str, str, int, float, float | None]:
    share = fsum(part.share for part in parts)
    return name, treatment, len(parts), share, share / gain if gain > 0 else None


def effect(tokens: np.ndarray, lower: np.ndarray, higher: np.ndarray) -> Effect:
    """The mean of `higher` minus `lower`, summed losses of the same rows with these numbers of tokens."""
    one, other = (
        Results({0: float(losses.sum() / tokens.sum())}, {0: RowLosses("", tokens, None, losses, 0)})
        for losses in (lower, higher)
    )
    found = difference(one, other)
    return Effect(found.mean, found.half_width(LEVEL))
