"""Finds layers that repeat an earlier one, so that only the first needs to be measured."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def repeated_layers(model: PreTrainedModel) -> dict[str, str]:
    """Layers (and all modules in them) that repeat an earlier layer of the same list -> the earlier one's."""
    twins: dict[str, str] = {}
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and not any(part.isdigit() for part in name.split("."))
    ]
    for name, stack in stacks:
        firsts: dict[object, str] = {}
        for index, layer in enumerate(stack):
            first = firsts.setdefault(_signature(layer), f"{name}.{index}")
            if first != f"{name}.{index}":
                for inner, _ in layer.named_modules():
                    tail = f".{inner}" if inner else ""
                    twins[f"{name}.{index}{tail}"] = first + tail
    return twins


def _signature(layer: nn.Module) -> object:
    """What two layers share that do the same: structure, sizes, flags."""
    return tuple(
        (
            name,
            type(module),
            tuple(None if p is None else p.shape for p in module._parameters.values()),
            tuple(item for item in vars(module).items() if isinstance(item[1], bool | str | None)),
        )
        for name, module in layer.named_modules()
    )
