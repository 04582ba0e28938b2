"""Cuts a LoRA adapter down: the SVD of every update, and one threshold for all of them.

Directions of an update whose singular value is below the threshold are dropped, in whatever module they are, so each
module keeps the rank that it uses. A kept update is stored with scale 1. numpy alone: a page can write the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from trainer.common.errors import UserError

PREFIX = "base_model.model."
LEVELS = (0.99, 0.95, 0.9, 0.75, 0.5)
"""Shares of the energy (squared singular values) of all updates together that are kept."""
Weights = Mapping[str, np.ndarray]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Update:
    """The update of one module: `left @ diag(values) @ right`, its scale included."""

    left: np.ndarray
    """(out, r), orthonormal columns."""
    values: np.ndarray
    """(r,), the largest first."""
    right: np.ndarray
    """(r, in), orthonormal rows."""

    def factors(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """B (out, rank) and A (rank, in) of the best approximation of that rank."""
        root = np.sqrt(self.values[:rank])
        return self.left[:, :rank] * root, root[:, None] * self.right[:rank]


def updates(weights: Weights, settings: Settings) -> dict[str, Update]:
    """The updates of all linears with LoRA, by module; `settings`: PEFT's adapter_config.json.

    LoRA of embeddings and of expert parameters has no such form here, and stays. Raises UserError if nothing is left.
    """
    if settings.get("use_dora"):
        raise UserError(
            "DoRA adapters cannot be cut down: their magnitudes belong to the whole update.", "Train a LoRA.", "data"
        )
    found = {}
    for name in _linears(weights, settings):
        a, b = (weights[f"{PREFIX}{name}.lora_{factor}.weight"].astype(np.float64) for factor in "AB")
        (left, upper), (right, lower) = np.linalg.qr(b), np.linalg.qr(a.T)
        inner = np.linalg.svd(_scale(name, settings) * upper @ lower.T)
        found[name] = Update(left @ inner.U, inner.S, inner.Vh @ right.T)
    if not found:
        raise UserError("This adapter has no LoRA on a linear, so there is nothing to cut.", "", "data")
    return found


def ranks(found: Mapping[str, Update], settings: Settings, kept: float) -> dict[str, int]:
    """The rank that each module keeps under one threshold, so that the share `kept` of all energy is kept.

    It is 0 where nothing is kept; 1 at least where biases are trained, which PEFT only stores with a LoRA. Raises
    UserError if there is no energy.
    """
    values = np.sort(np.concatenate([update.values for update in found.values()]))[::-1]
    energy = np.cumsum(values**2)
    if not energy[-1]:
        raise UserError("All updates of this adapter are zero, so there is nothing to keep.", "", "data")
    threshold = float(values[np.searchsorted(energy, kept * energy[-1])])
    least = 0 if settings.get("bias", "none") == "none" else 1
    return {name: max(least, int((update.values >= threshold).sum())) for name, update in found.items()}


def cut(weights: Weights, settings: Settings, kept: float) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights and adapter_config.json of the adapter cut down to the share `kept` of its energy.

    Modules that keep nothing are no targets any more. Raises UserError like `updates`.
    """
    found = updates(weights, settings)
    chosen = ranks(found, settings, kept)
    made = {name: value for name, value in weights.items() if not _belongs(name, found)}
    for name, rank in chosen.items():
        if rank:
            b, a = found[name].factors(rank)
            made[f"{PREFIX}{name}.lora_B.weight"] = np.ascontiguousarray(b, dtype=np.float32)
            made[f"{PREFIX}{name}.lora_A.weight"] = np.ascontiguousarray(a, dtype=np.float32)
    return made, _settings(settings, chosen)


def _settings(settings: Settings, chosen: Mapping[str, int]) -> dict[str, Any]:
    """adapter_config.json with a rank and an alpha for every module, without rsLoRA."""
    modules = [name for name in settings["target_modules"] if chosen.get(name, 1)]
    rank = {name: chosen.get(name) or _rank(name, settings) for name in [*modules, *_parameters(settings)]}
    alpha = {name: chosen.get(name) or _scale(name, settings) * rank[name] for name in rank}
    return {
        **settings,
        "target_modules": modules,
        "r": max(rank.values()),
        "lora_alpha": max(rank.values()),
        "rank_pattern": rank,
        "alpha_pattern": alpha,
        "use_rslora": False,
    }


def _linears(weights: Weights, settings: Settings) -> list[str]:
    """Modules with LoRA, without expert parameters, whose A and B stack those of all experts."""
    holders = {name.rpartition(".")[0] for name in _parameters(settings)}
    names = [
        name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        for name in weights
        if name.endswith(".lora_A.weight")
    ]
    return [name for name in names if name.removesuffix(".base_layer") not in holders]


def _parameters(settings: Settings) -> list[str]:
    return list(settings.get("target_parameters") or [])


def _belongs(tensor: str, found: Mapping[str, Update]) -> bool:
    """Whether a tensor is A or B of a module that is cut."""
    module = tensor.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")[0]
    return module in found


def _rank(name: str, settings: Settings) -> int:
    pattern: Mapping[str, int] = settings.get("rank_pattern") or {}
    return int(pattern.get(name, settings["r"]))


def _scale(name: str, settings: Settings) -> float:
    pattern: Mapping[str, float] = settings.get("alpha_pattern") or {}
    rank = _rank(name, settings)
    return pattern.get(name, settings["lora_alpha"]) / (sqrt(rank) if settings.get("use_rslora") else rank)
