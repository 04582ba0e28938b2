"""Memory warnings of a plan: what stays unquantized, what does not fit, and what would."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from trainer.common.devices import Device
from trainer.common.errors import Issue
from trainer.common.formatting import size
from trainer.config.schema import RunConfig
from trainer.models.checkpoint_format import prequantized
from trainer.models.module_map import ModuleMap
from trainer.planning.device_limits import compute_width
from trainer.planning.memory.cures import BATCH, Cures
from trainer.planning.memory.peak import Estimate
from trainer.planning.memory.weights import unquantized_bytes
from trainer.planning.targets import Target


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


def too_large(costs: Estimate, memory: Mapping[str, int], device: Device, cures: Callable[[], Cures]) -> list[Issue]:
    """A warning if the run needs more memory than the device has, with the changes that make it fit.

    `costs`: with as much recomputation as the configuration allows; `cures`: looks for such changes.
    """
    needed = sum(memory.values())
    if not device.room or needed <= device.room:
        return []
    has = f"{size(device.total)} in all" if device.room == device.total else f"{size(device.free)} free"
    where = f"the {'GPU' if device.is_gpu else 'machine'} has {has}."
    problem = f"This needs about {size(needed)}, and {where}"
    if memory.get("loading"):
        problem = f"Loading the weights needs about {size(needed)} at its peak, and {where}"
    tried = cures()
    if tried.found:
        fix = "Each of these makes it fit." if len(tried.found) > 1 else "This makes it fit."
        return [Issue(BATCH, problem, fix, tried.found[0].changes, tried.found)]
    checkpoint = costs.module_map.checkpoint
    copy = ", or an unquantized copy of this one with quantization nf4" * (checkpoint is not None)
    full = ", or train fewer modules in full" * any(tick.treatment == "full" for tick in costs.config.modules)
    return [Issue("model.name", problem, f"{_least(tried)} Choose a smaller model{copy}{full}.")]


def _least(tried: Cures) -> str:
    """The least memory that any settings need, as a sentence."""
    named = [f"{path.rpartition('.')[2]} {value}" for path, value in tried.least.items()]
    return f"No settings fit: the least found is {size(tried.least_bytes)}, with {', '.join(named)}."
