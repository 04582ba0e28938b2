"""Widths of rows: on a GPU one width or a few, so that each shape is compiled once and memory does not fragment."""

from __future__ import annotations

from math import ceil

from trainer.config.schema import TrainingConfig
from trainer.planning.schedule import Size

PER_ROW = 4
"""Mean examples that a packed row holds at least, where max_length allows: fewer leave gaps."""

TILE = 64
"""Fixed widths are multiples of this many tokens, which suits a GPU's matrix products and block masks."""
WIDTHS = 8
"""How many widths there are at most where rows are not packed."""


def row_width(longest: int, most: int, packed: bool) -> int:
    """Tokens of a GPU's rows: one width where rows are packed, else one of a few.

    `longest`: tokens of the micro-batch's longest row; `most`: of the run's.
    """
    whole = _round_up(most, TILE)
    if packed:
        return whole
    # a padded row has positions up to its end, which a model may lack beyond its maximum length
    return min(most, _round_up(longest, _round_up(whole // WIDTHS, TILE)))


def row_limit(training: TrainingConfig, on_gpu: bool, data: Size) -> int:
    """Tokens that a row may hold: on a GPU, where rows have a fixed width, no more than these examples fill well."""
    if not (on_gpu and data.longest):
        return training.max_length
    return min(training.max_length, max(data.longest, ceil(PER_ROW * data.length) if packs(training) else 0))


def widest(training: TrainingConfig, on_gpu: bool, data: Size) -> int:
    """Tokens of the widest row of a run, with padding."""
    most = row_limit(training, on_gpu, data)
    return row_width(most, most, packs(training)) if on_gpu else most


def packs(training: TrainingConfig) -> bool:
    """Whether rows may be packed, unless the run finds that the model cannot keep examples apart."""
    return training.packing in ("auto", "bfd")


def _round_up(number: int, unit: int) -> int:
    return max(unit, -(-number // unit) * unit)
