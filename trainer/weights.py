"""Which weights bitsandbytes quantises, and what all weights of the base model take."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, prod

from trainer.checkpoint_format import CheckpointFormat, held
from trainer.counts import module_parameters
from trainer.modules import ModuleMap
from trainer.resolve import Target

BLOCK, BLOCK_OF_SCALES = 64, 256
"""NF4 with double quantisation: weights that share an 8-bit scale, scales that share a float32 one."""
TABLES = 4 * (16 + 256 + 1)
"""Bytes beside every NF4 weight: its values, its scales' values, their mean."""

WEIGHTS = ("quantised weights", "quantisation constants", "other weights", "frozen copies")
"""Items of the base model's weights."""


def skipped_modules(module_map: ModuleMap, targets: Iterable[Target]) -> list[str]:
    """Modules that stay as they are in a quantised base: embeddings, the head, what trains in full."""
    kept = {module for kind in module_map.kinds if kind.group == "embedding" for module in kind.modules}
    return sorted(kept | {target.module for target in targets if target.treatment == "full"})


def quantised_modules(quantization: str, module_map: ModuleMap, targets: Iterable[Target]) -> set[str]:
    """Names of the modules that transformers hands to bitsandbytes: plain linears, but for those skipped.

    It matches a name to skip from the start of a path, up to a dot, and at its end. Experts held as
    parameters are no linears: they stay as they are. A checkpoint that is used as it is decides by itself.
    """
    if own := held(module_map.checkpoint):
        return set(own.modules)
    if quantization == "none":
        return set()
    skipped = skipped_modules(module_map, targets)
    starts, ends = tuple(f"{name}." for name in skipped), tuple(skipped)
    return {
        module
        for kind in module_map.kinds
        if kind.slice_of is None and kind.class_name in ("Linear", "Conv1D")
        for module in kind.modules
        if not (module.endswith(ends) or module.startswith(starts))
    }


def weights(
    quantization: str, module_map: ModuleMap, targets: Iterable[Target], quantised: set[str], width: int
) -> dict[str, int]:
    """Bytes of the base model's weights by item; `width` is that of a number that is not quantised."""
    full = {target.module for target in targets if target.treatment == "full"}
    checkpoint = held(module_map.checkpoint)
    items = dict.fromkeys(WEIGHTS, 0)
    for kind in module_map.kinds:
        if kind.slice_of is not None:
            continue
        for module, shape in zip(kind.modules, kind.shapes, strict=True):
            numbers = module_parameters(kind, shape) if kind.parameters else 0
            if module in quantised:
                weight = shape[0] * shape[1]
                own = min(1.0, numbers / weight)  # of a weight that several layers share, each has its part
                packed, constants = (
                    held_bytes(checkpoint, *shape) if checkpoint else quantised_bytes(quantization, *shape)
                )
                items["quantised weights"] += round(packed * own)
                items["quantisation constants"] += round(constants * own)
                items["other weights"] += max(0, numbers - weight) * width  # the bias
            elif module in full:
                items["frozen copies"] += numbers * width  # PEFT keeps it beside the copy that trains
            else:
                items["other weights"] += numbers * width
    return items


def quantised_bytes(quantization: str, out: int, width: int) -> tuple[int, int]:
    """Bytes of one quantised linear, and of its constants, as bitsandbytes 0.50 holds them."""
    if quantization == "int8":
        return out * width, out * 4
    blocks = ceil(out * width / BLOCK)
    return ceil(out * width / 2), blocks + 4 * ceil(blocks / BLOCK_OF_SCALES) + TABLES


def loading_bytes(module_map: ModuleMap, stay: int, width: int) -> int:
    """Bytes on the device at the peak of loading, where `stay` are kept: weights are dequantized one at a time.

    0 for a checkpoint that is not dequantized. On the way are the packed numbers, two float32 copies and the result;
    of experts' parameters, which are put together from those of each expert, twice the result.
    """
    if module_map.checkpoint is None or module_map.checkpoint.handling != "dequantized":
        return 0
    largest = 0
    for kind in module_map.kinds:
        each = 4 + 2 * width if kind.class_name == "Parameter" else 9 + width
        largest = max([largest, *(each * prod(shape) for shape in kind.shapes)])
    return stay + largest


def held_bytes(found: CheckpointFormat, out: int, width: int) -> tuple[int, int]:
    """Bytes of one linear of a checkpoint that is used as it is, and of its constants."""
    if found.method == "bitsandbytes":
        if found.bits == 8 or found.double_quantized:
            return quantised_bytes(found.quantization, out, width)
        return ceil(out * width / 2), 4 * ceil(out * width / found.group) + 4 * 16
    groups = ceil(width / found.group) if found.group else 1
    scales = 2 * groups * out + ceil(groups * out * found.bits / 8)  # and zero points
    order = 4 * width if found.method == "gptq" else 0
    return ceil(out * width * found.bits / 8), scales + order
