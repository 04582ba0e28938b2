"""Checks bit by bit whether training changed the adapter, and if not, why."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn


class InitialWeights:
    """Fingerprints of all trainable tensors before the first step."""

    def __init__(self, model: nn.Module) -> None:
        self._prints = {name: _fingerprint(weight) for name, weight in _trainable(model)}

    def differs(self, model: nn.Module) -> bool:
        """Whether any bit has changed since."""
        return any(self._prints[name] != _fingerprint(weight) for name, weight in _trainable(model))


def why_not(steps: Sequence[Mapping[str, Any]]) -> str:
    """Why an adapter did not change, judging by the logged steps, and what to do."""
    rates = [float(row["learning_rate"]) for row in steps if "loss" in row]
    norms = [float(row["grad_norm"]) for row in steps if "grad_norm" in row]
    if not any(rates):
        reason = "the learning rate was 0 at every step, because the warmup was not over"
        fix = "Train more steps, or set warmup_ratio to 0."
    elif not any(norms):
        reason = "no gradient reached what trains"
        fix = "Look at which tokens count for the loss, and train other modules."
    else:
        reason = "its updates were too small to change a float32 number"
        fix = "Raise the learning rate."
    return f"The adapter did not change: {reason}. {fix}"


def _trainable(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def _fingerprint(weight: torch.Tensor) -> bytes:
    held = weight.detach().reshape(-1).cpu().view(torch.uint8)
    return hashlib.blake2b(held.numpy().data, digest_size=16).digest()
