"""Warnings of a plan about memory: what quantization cannot reach, what does not fit, and what would."""

from __future__ import annotations

from collections.abc import Iterable

from trainer.checkpoint_format import held
from trainer.config import RunConfig
from trainer.devices import Device
from trainer.errors import Issue, Value
from trainer.failures import size
from trainer.memory import Estimate, compute_width
from trainer.modules import ModuleMap
from trainer.resolve import Target
from trainer.weights import unquantised


def left_unquantized(
    config: RunConfig, module_map: ModuleMap, targets: Iterable[Target], device: Device
) -> list[Issue]:
    """A warning that names what the chosen quantization cannot reach, with its bytes."""
    way = config.model.quantization
    if way == "none":
        return []
    width = compute_width(config, device)
    left = unquantised(way, module_map, targets, width)
    if not left:
        return []
    named = ", ".join(f"{name} ({size(count)})" for name, count in left.items())
    experts = any(kind.experts and kind.name in left for kind in module_map.kinds)
    fix = "It is counted under other weights."
    if way == "int8" and experts and not held(module_map.checkpoint):
        fix = "Set quantization to nf4, which quantizes experts, too."
    return [Issue("model.quantization", f"Not quantized by {way}, but held in {8 * width} bits: {named}.", fix)]


def too_large(costs: Estimate, memory: dict[str, int], device: Device, fits: dict[str, int]) -> list[Issue]:
    """A warning where the run needs more than the device has, with what would make it fit.

    `costs`: with as much recomputing as the configuration allows; `fits`: what of batch and length would fit so.
    """
    needed = sum(memory.values())
    if not device.room or needed <= device.room:
        return []
    has = f"{size(device.total)} in all" if device.room == device.total else f"{size(device.free)} free"
    where = f"the {'GPU' if device.is_gpu else 'machine'} has {has}."
    if memory.get("loading"):
        problem = f"Loading the weights needs about {size(needed)} at its peak, and {where}"
        dequantized = costs.module_map.checkpoint is not None
        fix = "Choose the unquantized model, with quantization nf4." if dequantized else "Choose a smaller model."
        return [Issue("model.name", problem, fix)]
    cures, changes = _cures(costs, fits)
    problem = f"This needs about {size(needed)}, and {where}"
    return [Issue("training.per_device_train_batch_size", problem, " ".join(cures), changes)]


def _cures(costs: Estimate, fits: dict[str, int]) -> tuple[list[str], dict[str, Value]]:
    """What to lower, in sentences, and the changes that the first of them asks for, which surely suffice."""
    config, batch, length = costs.config, fits["per_device_train_batch_size"], fits["max_length"]
    cures, changes = [], dict[str, Value]()
    if batch:
        cures.append(f"Lower it to {batch}.")
        changes = {"training.per_device_train_batch_size": batch}
    elif length >= 8:
        cures.append(f"Lower it to 1, and max_length to {length}.")
        changes = {"training.per_device_train_batch_size": 1, "training.max_length": length}
    if config.training.activation_checkpointing == "off":
        cures.append("Set activation_checkpointing to auto.")
    if config.model.quantization != "nf4" and not held(costs.module_map.checkpoint):
        cures.append("Set quantization to nf4.")
    return cures or ["Choose a smaller model, or train fewer modules in full."], changes
