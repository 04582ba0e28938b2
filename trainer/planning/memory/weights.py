"""Which weights are quantized, which are not, and the memory that the base model's weights take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil, prod

from trainer.models.checkpoint_format import CheckpointFormat, prequantized
from trainer.models.module_map import READ, ModuleKind, ModuleMap
from trainer.planning.parameter_counts import module_parameters
from trainer.planning.targets import Target

BLOCK, BLOCK_OF_SCALES = 64, 256
"""NF4 with double quantization: weights that share an 8-bit scale, scales that share a float32 one."""
TABLES = 4 * (16 + 256 + 1)
"""Bytes of lookup tables per NF4 weight: code values, scale code values, mean of the scales."""
SHARE = 0.01
"""Share of the model's parameters from which an unquantized kind is worth a warning."""
LARGEST = 2**31 - 1
"""Most elements of one weight that bitsandbytes' kernels can index."""
FP8_MULTIPLE = 16
"""FP8 kernels multiply matrices whose sides are multiples of it."""

WEIGHTS = ("quantized weights", "quantization constants", "other weights", "frozen copies")
"""Memory items of the base model's weights. Keys of plan.json, which keep their spelling."""


def skipped_modules(module_map: ModuleMap, targets: Iterable[Target]) -> list[str]:
    """Modules that stay unquantized in a quantized base model.

    Embeddings, the head, modules whose weight is read without a call, fully trained modules, and modules whose weight
    LoRA is added to.
    """
    kinds = [kind for kind in module_map.kinds if kind.group == "embedding" or kind.reason == READ]
    kept = {module for kind in kinds for module in kind.modules}
    return sorted(kept | {target.module for target in targets if target.treatment == "full" or target.kind.by_weight})


def modules_to_quantize(quantization: str, module_map: ModuleMap, targets: Iterable[Target]) -> set[str]:
    """Names of what is quantized: plain linears, by transformers and bitsandbytes, and experts' parameters.

    transformers matches names to skip at the start of a path, up to a dot, and at its end. For a checkpoint that is
    used as it is, the checkpoint decides.
    """
    if own := prequantized(module_map.checkpoint):
        return set(own.modules)
    if quantization == "none":
        return set()
    skipped = skipped_modules(module_map, targets)
    starts, ends = tuple(f"{name}." for name in skipped), tuple(skipped)
    linears = {
        module
        for kind in module_map.kinds
        if kind.slice_of is None and kind.class_name in ("Linear", "Conv1D")
        for module, shape in zip(kind.modules, kind.shapes, strict=True)
        if not (module.endswith(ends) or module.startswith(starts))
        and not (quantization == "fp8" and any(side % FP8_MULTIPLE for side in shape))
    }
    return linears | experts_to_quantize(quantization, module_map)


def experts_to_quantize(quantization: str, module_map: ModuleMap) -> set[str]:
    """Full names of the experts' parameters that `expert_quantization` quantizes: in NF4, all but giant ones."""
    if quantization != "nf4" or prequantized(module_map.checkpoint):
        return set()
    return {
        parameter
        for kind in module_map.kinds
        if kind.experts
        for parameter, shape in zip(kind.modules, kind.shapes, strict=True)
        if prod(shape) <= LARGEST
    }


def unquantized_bytes(
    quantization: str, module_map: ModuleMap, targets: Iterable[Target], width: int
) -> dict[str, int]:
    """Bytes by kind of what stays unquantized, at `width` bytes per element, largest first.

    Only matrices that are neither embeddings nor trained in full, and only kinds with at least SHARE of the model's
    parameters, so no routers or convolutions.
    """
    targets = list(targets)
    passed = modules_to_quantize(quantization, module_map, targets)
    passed |= {target.module for target in targets if target.treatment == "full"}
    left = {
        kind.name: width * sum(size for name, _, size in _modules(kind) if name not in passed)
        for kind in module_map.kinds
        if kind.slice_of is None and kind.group != "embedding" and len(kind.shape) > 1
    }
    worth = {name: size for name, size in left.items() if size >= SHARE * module_map.parameters * width}
    return dict(sorted(worth.items(), key=lambda item: -item[1]))


def dequantized_experts(module_map: ModuleMap, quantized: set[str], targets: Iterable[Target]) -> int:
    """Elements of experts held dequantized at once: those of one layer, while it computes.

    With LoRA, PEFT also makes the sum of each weight and its LoRA, and later its gradient.
    """
    with_lora = {target.module for target in targets if target.treatment == "lora"}
    layers: dict[str, int] = {}
    for kind in module_map.kinds:
        for name, shape, _ in _modules(kind) if kind.experts else ():
            owner, copies = name.rpartition(".")[0], 1 + (name in with_lora)
            layers[owner] = layers.get(owner, 0) + copies * prod(shape) * (name in quantized)
    return max(layers.values(), default=0)


def _modules(kind: ModuleKind) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Name, shape and parameters of each module of a kind."""
    for name, shape in zip(kind.modules, kind.shapes, strict=True):
        yield name, shape, module_parameters(kind, shape) if kind.parameters else 0


def weights(
    quantization: str, module_map: ModuleMap, targets: Iterable[Target], quantized: set[str], width: int
) -> dict[str, int]:
    """Bytes of the base model's weights by item; `width` is the bytes per unquantized element."""
    full = {target.module for target in targets if target.treatment == "full"}
    checkpoint = prequantized(module_map.checkpoint)
    items = dict.fromkeys(WEIGHTS, 0)
    for kind in module_map.kinds:
        if kind.slice_of is not None:
            continue
        for module, shape, numbers in _modules(kind):
            if module in quantized:
                weight = prod(shape)
                own = min(1.0, numbers / weight)  # each layer counts its part of a shared weight
                packed, constants = (
                    held_bytes(checkpoint, *shape) if checkpoint else quantized_bytes(quantization, shape)
                )
                items["quantized weights"] += round(packed * own)
                items["quantization constants"] += round(constants * own)
                items["other weights"] += max(0, numbers - weight) * width  # the bias
            elif module in full:
                items["frozen copies"] += numbers * width  # PEFT keeps it beside the trained copy
            else:
                items["other weights"] += numbers * width
    return items


def quantized_bytes(quantization: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Bytes of one quantized weight and of its constants, in bitsandbytes 0.50 or in FP8."""
    if quantization in ("int8", "fp8"):
        return prod(shape), shape[0] * 4
    blocks = ceil(prod(shape) / BLOCK)
    return ceil(prod(shape) / 2), blocks + 4 * ceil(blocks / BLOCK_OF_SCALES) + TABLES


def loading_buffers(quantization: str, module_map: ModuleMap, quantized: set[str], width: int) -> int:
    """Temporary bytes of the largest weight while it loads; weights load one after the other.

    A dequantized weight has its packed values, two float32 copies and the result in memory at once; experts'
    parameters are there twice, as parts and stacked; a weight that becomes FP8, as it arrives and divided by its
    scales. 0 if all weights load in their final format.
    """
    checkpoint = module_map.checkpoint
    dequantizes = checkpoint is not None and checkpoint.handling == "dequantized"
    largest = 0
    for kind in module_map.kinds:
        if kind.class_name == "Parameter":
            each = 4 * dequantizes + 2 * width
        else:
            each = 9 + width if dequantizes else 2 * width
        passing = dequantizes or kind.experts or quantization == "fp8"
        sizes = [prod(shape) for name, shape, _ in _modules(kind) if passing and (dequantizes or name in quantized)]
        largest = max([largest, *(each * size for size in sizes)])
    return largest


def held_bytes(found: CheckpointFormat, out: int, width: int) -> tuple[int, int]:
    """Bytes of one linear, and of its constants, in a checkpoint that is used as it is."""
    if found.method == "bitsandbytes":
        if found.bits == 8 or found.double_quantized:
            return quantized_bytes(found.quantization, (out, width))
        return ceil(out * width / 2), 4 * ceil(out * width / found.group) + 4 * 16
    groups = ceil(width / found.group) if found.group else 1
    scales = 2 * groups * out + ceil(groups * out * found.bits / 8)  # and zero points
    order = 4 * width if found.method == "gptq" else 0
    return ceil(out * width * found.bits / 8), scales + order
