"""The optimizer: each tick's own or the shared learning rate, LoRA+, slices of fused modules, paged states."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import nn

from trainer.config.schema import RunConfig
from trainer.training import adapter


def parameter_groups(model: PeftModel, config: RunConfig) -> list[dict[str, Any]]:
    """Groups for a torch optimizer, with the peak learning rates that `adapter.prepare` took from the plan.

    LoRA's B may have a higher learning rate (LoRA+, arXiv:2402.12354). DoRA's magnitudes, biases and rows of new
    tokens have no weight decay: it would also pull at the rows of a fused module whose slice is not ticked.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for treatment in ("lora", "full", "rows"):
        for name, parameter in adapter.trainable_parameters(model, treatment):
            rate: float = parameter.peak_lr  # type: ignore[attr-defined]
            rate *= config.adapter.loraplus_lr_ratio if "lora_B" in name else 1
            decays = parameter.dim() > 1 and treatment != "rows"
            groups.setdefault((rate, config.training.weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": weights, "lr": rate, "weight_decay": decay} for (rate, decay), weights in groups.items()]


def keep_paged(optimizer: Any) -> None:
    """Let a paged optimizer of bitsandbytes page its states after a resume, too.

    Its own `load_state_dict` moves all states to the GPU as plain tensors, where the plan does not count them.
    """
    load = optimizer.load_state_dict

    def load_paged(saved: dict[str, Any], move_to_device: bool = True) -> None:
        load(saved, move_to_device=False)
        for weight, state in optimizer.state.items():
            for name, value in state.items():
                if name in ("state1", "state2"):  # as `init_state` makes them: paged if they are large
                    state[name] = optimizer.get_state_buffer(weight, dtype=value.dtype)
                    state[name].copy_(value)
                elif move_to_device and isinstance(value, torch.Tensor):
                    state[name] = value.to(weight.device)

    if getattr(optimizer, "is_paged", False):
        optimizer.load_state_dict = load_paged


def scale_slices(optimizer: torch.optim.Optimizer) -> None:
    """Give each slice of a fused module its own learning rate.

    The slices share two matrices, so one parameter group with the highest rate. AdamW's update is proportional to the
    rate, weight decay included, so the update of the other slices is scaled down.
    """
    weights = [item for group in optimizer.param_groups for item in group["params"] if hasattr(item, "lr_scale")]
    before: list[torch.Tensor] = []

    def remember(*_: Any) -> None:
        before[:] = [weight.detach().clone() for weight in weights]

    def scale(*_: Any) -> None:
        for weight, old in zip(weights, before, strict=True):
            weight.data.copy_(torch.lerp(old, weight.data, weight.lr_scale))
        before.clear()

    if weights:
        optimizer.register_step_pre_hook(remember)
        optimizer.register_step_post_hook(scale)
