"""Memory warnings of a plan: what stays unquantized, what does not fit, and what would."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from trainer.common.devices import Device
from trainer.common.errors import Issue, Value
from trainer.common.formatting import size
from trainer.config.schema import RunConfig
from trainer.models.checkpoint_format import prequantized
from trainer.models.module_map import ModuleMap
from trainer.planning.device_limits import compute_width
from trainer.planning.memory import SHORTEST, Estimate
from trainer.planning.parameter_counts import tensor_sizes
from trainer.planning.targets import Target
from trainer.planning.weight_memory import unquantized_bytes

TRAINED = ("trained weights", "gradients", "optimizer", "optimizer, paged")
"""Memory items that grow with the trainable parameters."""
LARGE = 0.2
"""Share of the memory above which the warning suggests a smaller LoRA."""


def left_unquantized(
    config: RunConfig, module_map: ModuleMap, targets: Iterable[Target], device: Device
) -> list[Issue]:
    """A warning that lists what stays unquantized, with its bytes."""
    way = config.model.quantization
    if way == "none":
        return []
    width = compute_width(config, device)
    left = unquantized_bytes(way, module_map, targets, width)
    if not left:
        return []
    named = ", ".join(f"{name} ({size(count)})" for name, count in left.items())
    experts = any(kind.experts and kind.name in left for kind in module_map.kinds)
    fix = f"{'They are' if len(left) > 1 else 'It is'} counted under other weights."
    if way != "nf4" and experts and not prequantized(module_map.checkpoint):
        fix = "Set quantization to nf4, which quantizes experts, too."
    return [Issue("model.quantization", f"Held in {8 * width} bits, not quantized by {way}: {named}.", fix)]


def too_large(
    costs: Estimate, memory: dict[str, int], device: Device, fits: dict[str, int], targets: Sequence[Target]
) -> list[Issue]:
    """A warning if the run needs more memory than the device has, with what would make it fit.

    `costs`: with as much recomputation as the configuration allows; `fits`: the batch and length that would then fit.
    """
    needed = sum(memory.values())
    if not device.room or needed <= device.room:
        return []
    has = f"{size(device.total)} in all" if device.room == device.total else f"{size(device.free)} free"
    where = f"the {'GPU' if device.is_gpu else 'machine'} has {has}."
    if memory.get("loading"):
        problem = f"Loading the weights needs about {size(needed)} at its peak, and {where}"
        copy = ", or an unquantized copy of this one with quantization nf4" * (
            costs.module_map.checkpoint is not None
        )
        return [Issue("model.name", problem, f"Choose a smaller model{copy}.")]
    fixes, changes = _smaller_batch_or_length(fits)
    if costs.config.training.activation_checkpointing == "off":
        fixes.append("Set activation_checkpointing to auto.")
    if costs.config.model.quantization != "nf4" and not prequantized(costs.module_map.checkpoint):
        fixes.append("Set quantization to nf4.")
    if not changes:
        fixes += _smaller_lora(costs, targets)
    if not fixes:
        full = any(target.treatment == "full" for target in targets)
        fixes.append(f"Choose a smaller model{', or fully train fewer modules' if full else ''}.")
    problem = f"This needs about {size(needed)}, and {where}"
    return [Issue("training.per_device_train_batch_size", problem, " ".join(fixes), changes)]


def _smaller_batch_or_length(fits: dict[str, int]) -> tuple[list[str], dict[str, Value]]:
    """A smaller batch or length that fits, as a sentence and as changes to the configuration."""
    batch, length = fits["per_device_train_batch_size"], fits["max_length"]
    if batch:
        return [f"Lower it to {batch}."], {"training.per_device_train_batch_size": batch}
    if length:
        changes = {"training.per_device_train_batch_size": 1, "training.max_length": length}
        return [f"Lower it to 1, and max_length to {length}."], dict[str, Value](changes)
    return [], {}


def _smaller_lora(costs: Estimate, targets: Iterable[Target]) -> list[str]:
    """The kinds with the largest LoRA, if LoRA takes a large share of the least memory that a run needs."""
    least = costs.items(1, SHORTEST)
    numbers, total = defaultdict[str, int](int), 0
    for target in targets:
        count = sum(tensor_sizes(target, costs.config.adapter, costs.module_map))
        total += count
        if target.treatment == "lora":
            numbers[target.kind.name] += count
    taken = sum(least.get(item, 0) for item in TRAINED) / max(total, 1)
    if taken * sum(numbers.values()) < LARGE * sum(least.values()):
        return []
    most = sorted(numbers, key=lambda name: -numbers[name])[:3]
    kinds = [name for name in most if numbers[name] >= numbers[most[0]] / 4]
    named = " and ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))
    bytes_ = size(taken * sum(numbers[name] for name in kinds))
    it, its = ("them", "their") if len(kinds) > 1 else ("it", "its")
    return [f"Lower the rank of {named}, or untick {it}: {its} LoRA takes {bytes_} with gradients and optimizer."]
