"""Which weights learn how fast: LoRA, LoRA+'s B, modules trained in full."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import nn

from trainer import adapter
from trainer.config import RunConfig


def parameter_groups(model: PeftModel, config: RunConfig) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, with peak learning rates; what does not train is in none.

    B of LoRA may learn faster (LoRA+, arXiv:2402.12354), modules trained in full learn at a tenth unless
    told otherwise. DoRA's magnitudes and biases have no weight decay: it would also pull at the rows of a
    fused module whose slice is not ticked.
    """
    training = config.training
    full_rate = training.full_learning_rate or training.learning_rate / 10
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in adapter.trainable_parameters(model, "lora"):
        rate = training.learning_rate * (config.adapter.loraplus_lr_ratio if "lora_B" in name else 1)
        decay = training.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    for _, parameter in adapter.trainable_parameters(model, "full"):
        decay = training.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((full_rate, decay), []).append(parameter)
    rows = [parameter for _, parameter in adapter.trainable_parameters(model, "rows")]
    if rows:
        groups.setdefault((training.learning_rate, 0.0), []).extend(rows)
    return [{"params": weights, "lr": rate, "weight_decay": decay} for (rate, decay), weights in groups.items()]
