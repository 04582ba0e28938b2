"""Measures what an adapter loses when it is cut down: its loss on held-out rows and on general text, by level."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from trainer.common.progress import Progress
from trainer.runs.adapter_settings import CONFIG, read_settings
from trainer.runs.cut_down import CutDown, Level
from trainer.training import low_rank
from trainer.training.attribution.gates import set_all
from trainer.training.attribution.rows import Rows
from trainer.training.attribution.saved_adapter import WEIGHTS
from trainer.training.attribution.trained_run import TrainedRun
from trainer.training.low_rank import Update


def measure(run: TrainedRun, folder: Path, step: int, progress: Progress) -> CutDown:
    """Measure the adapter in `folder` at all levels. `step`: its steps. Raises UserError if it cannot be cut."""
    settings, weights = read_settings(folder / CONFIG), load_file(folder / WEIGHTS)
    progress("Decomposing the updates", 0)
    updates = low_rank.updates(weights, settings)
    general = Rows(run.trainer, run.general.examples)
    set_all(run.gates, 0.0)
    before, general_before = run.rows.losses()[0], _mean(general)
    set_all(run.gates, 1.0)
    (after, tokens), general_after = run.rows.losses(), _mean(general)
    size, levels = sum(value.size for value in weights.values()), []
    for number, kept in enumerate(low_rank.LEVELS):
        progress("Cutting down", number / len(low_rank.LEVELS))
        ranks = low_rank.ranks(updates, settings, kept)
        _set(run.trainer.model, updates, ranks)
        smaller = size - sum(
            (len(update.values) - ranks[name]) * (len(update.left) + update.right.shape[1])
            for name, update in updates.items()
        )
        levels.append(Level(kept, ranks, smaller, run.rows.losses()[0], _mean(general)))
    whole = {name: len(update.values) for name, update in updates.items()}
    return CutDown(
        step, run.held_out, tokens, before, after, general_before, general_after, whole, size, tuple(levels)
    )


def _mean(rows: Rows) -> float:
    losses, tokens = rows.losses()
    return float(losses.sum() / tokens.sum())


def _set(model: Any, updates: Mapping[str, Update], ranks: Mapping[str, int]) -> None:
    """Put the updates of these ranks into the model; the dropped directions become zeros."""
    for name, update in updates.items():
        layer: Any = model.base_model.model.get_submodule(name)
        b, a = update.factors(ranks[name])
        scale = layer.scaling["default"]
        for parameter, value in ((layer.lora_B["default"].weight, b / scale), (layer.lora_A["default"].weight, a)):
            whole = torch.zeros_like(parameter)
            whole[: value.shape[0], : value.shape[1]] = torch.from_numpy(np.ascontiguousarray(value))
            parameter.data.copy_(whole)
