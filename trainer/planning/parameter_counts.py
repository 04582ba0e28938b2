"""Counts trainable parameters of a target, and the sizes of its adapter's tensors."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from trainer.config.schema import AdapterConfig
from trainer.models.module_map import ModuleKind, ModuleMap
from trainer.planning.targets import Target

FLOAT32 = 4
ENTRY_BYTES = 105
"""Bytes per tensor in a safetensors header, without its module's name."""


def trainable_count(target: Target, adapter: AdapterConfig) -> int:
    """Trainable parameters of `target`."""
    if target.treatment == "rows":
        return prod(target.shape)
    if target.treatment == "full":
        return module_parameters(target.kind, target.shape)
    if not target.slices:
        return sum(lora_sizes(target, adapter))
    width, height = target.shape[-1], 0
    for part in target.slices:
        rank = part.columns[1] - part.columns[0]
        rows = sum(end - start for start, end in part.rows)
        height += rank * (width + rows) + (rows if adapter.use_dora else 0)
        if adapter.bias == "lora_only" and target.kind.bias:
            height += rows
    return height


def file_sizes(target: Target, adapter: AdapterConfig, module_map: ModuleMap) -> list[int]:
    """Elements of each tensor in the adapter file for `target`.

    PEFT writes a tied weight trained in full under all of its names, and PiSSA as a LoRA of twice the rank.
    """
    sizes = tensor_sizes(target, adapter, module_map)
    if target.treatment == "full":
        names = 1 + sum(kind.tied_to == target.kind.name for kind in module_map.kinds)
        return [*sizes[:1] * names, *sizes[1:]]
    return [2 * size for size in sizes] if adapter.init_lora_weights == "pissa" else sizes


def file_bytes(targets: Iterable[Target], adapter: AdapterConfig, module_map: ModuleMap) -> int:
    """Bytes of the adapter file: its parameters in float32, and the safetensors header."""
    sizes = [(target.module, size) for target in targets for size in file_sizes(target, adapter, module_map)]
    return sum(FLOAT32 * size + ENTRY_BYTES + len(module) for module, size in sizes)


def tensor_sizes(target: Target, adapter: AdapterConfig, module_map: ModuleMap) -> list[int]:
    """Elements of each tensor that requires a gradient for `target`; for a slice, of the whole module's LoRA."""
    if target.treatment == "rows":
        return [prod(target.shape)]
    if target.treatment == "full":
        whole, weight = module_parameters(target.kind, target.shape), prod(target.shape)
        return [weight, whole - weight] if whole > weight else [whole]
    return lora_sizes(whole_module(target, module_map), adapter)


def whole_module(target: Target, module_map: ModuleMap) -> Target:
    """The target extended to the whole fused module; unchanged if it is not a slice."""
    fused = module_map.get(target.kind.slice_of or "") if target.slices else None
    if fused is None:
        return target
    return Target(target.module, fused, "lora", fused.shapes[fused.modules.index(target.module)], target.r)


def lora_sizes(target: Target, adapter: AdapterConfig) -> list[int]:
    """Tensor sizes of one LoRA: A and B (all experts together), DoRA's magnitudes and biases."""
    *experts, height, width = target.shape
    rank = target.r * prod(experts)
    sizes = [rank * width, rank * height]
    if adapter.use_dora:
        sizes.append(width if target.kind.class_name == "Embedding" else height)
    if adapter.bias == "lora_only" and target.kind.bias:
        sizes.append(height)
    return sizes


def module_parameters(kind: ModuleKind, shape: tuple[int, ...]) -> int:
    """Parameters of one module of `kind`, its bias included."""
    if len(set(kind.shapes)) == 1 and kind.parameters:
        return kind.parameters // len(kind.modules)
    return prod(shape) + (shape[0] if kind.bias else 0)
