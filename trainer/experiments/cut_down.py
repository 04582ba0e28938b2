"""What cutting an adapter down costs: rank, size, loss and forgetting at each level."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from trainer.common.formatting import loss, percent
from trainer.experiments.attribution import Effect, effect
from trainer.runs.cut_down import CutDown


@dataclass(frozen=True)
class CutLevel:
    """The adapter at one level; the whole one has kept = 1."""

    kept: float
    """Share of the energy of all updates that is kept."""
    rank: int
    """Of all modules together."""
    modules: int
    """Those that keep their LoRA."""
    parameters: int
    loss: float
    """On the measured held-out rows."""
    rise: Effect
    """Of that loss, over the whole adapter's."""
    forgetting: float
    """Loss on general text minus the base model's."""


def levels(found: CutDown) -> list[CutLevel]:
    """The whole adapter, then all levels."""
    whole = (1.0, found.ranks, found.parameters, found.after, found.general_after)
    rest = [(level.kept, level.ranks, level.parameters, level.losses, level.general) for level in found.levels]
    return [
        CutLevel(
            kept=kept,
            rank=sum(ranks.values()),
            modules=sum(rank > 0 for rank in ranks.values()),
            parameters=parameters,
            loss=float(losses.sum() / found.tokens.sum()),
            rise=effect(found.tokens, found.after, losses),
            forgetting=general - found.general_before,
        )
        for kept, ranks, parameters, losses, general in (whole, *rest)
    ]


def cut_sentences(found: CutDown) -> tuple[str, ...]:
    """What was measured, and how it is cut."""
    before = loss(float(found.before.sum() / found.tokens.sum()))
    rows = f"{len(found.tokens):,} of {found.held_out:,} held-out rows"
    return (
        f"Loss on {rows}, where the base model's is {before}; forgetting is the rise of the loss on general text.",
        f"One threshold for the singular values of all updates ({percent(1.0)} is the whole adapter): each module "
        "keeps the rank that it uses.",
    )


def cut_to_json(found: CutDown) -> dict[str, Any]:
    """What the command line prints as JSON."""
    rows = [asdict(level) for level in levels(found)]
    for row, level in zip(rows[1:], found.levels, strict=True):
        row["ranks"] = level.ranks
    return {"step": found.step, "rows": len(found.tokens), "held_out": found.held_out, "levels": rows}
