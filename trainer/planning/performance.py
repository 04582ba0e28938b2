"""Performance settings that do not change what a run learns, chosen for the plan and device, with reasons.

They are part of the plan: shown before the run, saved with it, and reused when it is resumed. No torch here;
`training/trainer.py` applies them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from typing import Any

from trainer.common.devices import Device
from trainer.config.schema import RunConfig
from trainer.models.checkpoint_format import prequantized
from trainer.models.module_map import ModuleMap
from trainer.planning.memory import Estimate
from trainer.planning.schedule import batch_size

MEMORY_RESERVE = 0.15
"""Share of the device's memory to leave free, for fragmentation and errors of the estimate."""
WEIGHT_READ_TOKENS = {"nf4": 400, "int8": 400, "none": 60}
"""Cost of reading (NF4: dequantizing) all weights once per micro-batch, in tokens of compute time. From bandwidth and
matmul rates of current GPUs (280 to 480 for NF4); only used to rank micro-batch sizes."""
WORTHWHILE_SAVING = 0.02
"""Share of a step's time that another micro-batch size must save."""
MAX_MICRO_BATCH = 4096
"""Largest micro-batch in examples."""
COMPILE_MIN_FLOPS = 2e17
"""FLOPs of a run from which compiling pays for the minute it takes: a few minutes on a current GPU."""
LIGER_TYPES = (
    "gemma", "gemma2", "gemma3_text", "glm4", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3",
    "smollm3",
)  # fmt: skip
"""Model types with Liger kernels for norms, rotary embeddings and MLPs."""


@dataclass(frozen=True)
class PerformanceSettings:
    """The performance settings of one run."""

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    every_n_layers: int = 0
    """Every n-th layer recomputes its activations in the backward pass: 1 means all, 0 none."""
    torch_compile: bool = False
    use_liger_kernel: bool = False
    optim: str = "adamw_torch_fused"
    why: dict[str, str] = field(default_factory=dict)
    """The reason for each setting, as a phrase."""

    def summary(self) -> str:
        """All settings and their reasons in one line."""
        return "; ".join(f"{name.replace('_', ' ')}: {reason}" for name, reason in self.why.items()) + "."

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PerformanceSettings:
        """Settings from a plan's JSON; keys that this version does not know are ignored."""
        known = {item.name for item in fields(cls)}
        return cls(**{key: item for key, item in value.items() if key in known})


def choose_settings(
    config: RunConfig, module_map: ModuleMap, device: Device, costs: Callable[[bool], Estimate], trained: int = 0
) -> tuple[PerformanceSettings, Estimate]:
    """The performance settings of `config` on `device`, and the memory estimate with them.

    `costs`: the estimate without checkpointing (False) and with it (True). `trained`: tokens that the run trains on,
    0 if not counted yet.
    """
    training = config.training
    why: dict[str, str] = {}
    every, batch, needs = _memory(config, module_map, device, costs)
    accumulation = batch_size(training) // batch
    why["activation_checkpointing"] = _why_checkpointing(training.activation_checkpointing, every, device)
    why["micro_batches"] = _why_batches(config, module_map, device, batch, accumulation)
    compiles, why["torch_compile"] = _compile(config, module_map, device, trained)
    liger, why["use_liger_kernel"] = _liger(config, module_map, device, compiles)
    optim, why["optim"] = _optimizer(training.optim, device)
    chosen = PerformanceSettings(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        every_n_layers=every,
        torch_compile=compiles,
        use_liger_kernel=liger,
        optim=optim,
        why=why,
    )
    return chosen, needs


def _memory(
    config: RunConfig, module_map: ModuleMap, device: Device, costs: Callable[[bool], Estimate]
) -> tuple[int, int, Estimate]:
    """Checkpointing interval, micro-batch and estimate: the fastest that fit; among equals, the configured one
    or the smallest."""
    training = config.training
    micro, batch = training.per_device_train_batch_size, batch_size(training)
    others = range(1, min(batch, MAX_MICRO_BATCH) + 1) if _micro_batch_may_change(config, module_map, device) else ()
    sizes = [size for size in others if batch % size == 0] or [micro]
    room = device.room * (1 - MEMORY_RESERVE)
    layers = max(1, module_map.layers)
    choices = _checkpointing_choices(training.activation_checkpointing, layers, device)
    found = []
    for every in choices:
        for size in sizes:
            needs = costs(every > 0).with_performance(every, batch // size)
            if needs.total(size, training.max_length) <= room:
                found.append((_time_per_example(config, layers, every, size), size, every, needs))
    if not found:  # also if the free memory is unknown
        every, size = choices[-1], sizes[0]
        return every, size, costs(every > 0).with_performance(every, batch // size)
    quickest = min(item[0] for item in found)
    good = [item for item in found if item[0] <= quickest * (1 + WORTHWHILE_SAVING)]
    _, size, every, needs = min(good, key=lambda item: (item[1] != micro, item[1], item[0]))
    return every, size, needs


def _checkpointing_choices(way: str, layers: int, device: Device) -> list[int]:
    """Candidates for `every_n_layers`, from most to least memory."""
    if way == "auto":
        return [0, *range(min(layers, 8), 0, -1)] if device.room else [1]
    return [1] if way == "on" else [0]


def _micro_batch_may_change(config: RunConfig, module_map: ModuleMap, device: Device) -> bool:
    """Whether the micro-batch size may change: on a GPU with known memory, if a step's loss is one sum."""
    dense = module_map.forward.experts_per_token == 1  # a router's loss is a mean over each micro-batch
    return config.training.micro_batches == "auto" and device.is_gpu and device.room > 0 and dense


def _time_per_example(config: RunConfig, layers: int, every: int, micro: int) -> float:
    """Relative time per example, forward, backward and recomputation, for examples of half the maximum length."""
    recomputed = len(range(0, layers, every)) / layers if every else 0.0
    return (2 + recomputed) * (WEIGHT_READ_TOKENS[config.model.quantization] / micro + config.training.max_length / 2)


def _why_checkpointing(way: str, every: int, device: Device) -> str:
    if way != "auto":
        return "every layer recomputes, as set" if every else "off, as set"
    if every == 0:
        return "off: all activations fit into memory"
    if every > 1:
        return f"one layer in {every} recomputes: the activations of the others fit into memory"
    return "every layer recomputes: " + (
        "more activations do not fit into memory" if device.room else "free memory is unknown"
    )


def _why_batches(config: RunConfig, module_map: ModuleMap, device: Device, micro: int, steps: int) -> str:
    training = config.training
    own = f"{training.per_device_train_batch_size} × {training.gradient_accumulation_steps}"
    if micro != training.per_device_train_batch_size:
        return f"{micro} × {steps} instead of {own}: the same batch, and the fastest that fits into memory"
    if training.micro_batches == "off":
        return f"{own}, as set"
    if _micro_batch_may_change(config, module_map, device):
        return f"{own}: other sizes do not fit, or save nothing"
    return (
        f"{own}: other sizes only help on a GPU"
        if not device.is_gpu
        else f"{own}: other sizes would change the loss, or free memory is unknown"
    )


def _compile(config: RunConfig, module_map: ModuleMap, device: Device, trained: int) -> tuple[bool, str]:
    way = config.training.torch_compile
    if way != "auto":
        return way == "on", f"{way}, as set"
    if not device.is_gpu:
        return False, "off: it only helps on a GPU"
    if not device.bfloat16 or find_spec("triton") is None:
        return False, "off: it needs Triton and a GPU with bfloat16"
    own = prequantized(module_map.checkpoint)
    if own and own.method != "bitsandbytes":
        return False, f"off: the kernels of {own.title} break the graph"
    experts = module_map.forward.experts_per_token > 1 or any(kind.experts for kind in module_map.kinds)
    if config.model.quantization == "int8" or experts:
        return False, "off: int8 and experts break the graph"
    if trained and 4 * module_map.parameters * trained < COMPILE_MIN_FLOPS:  # forward, and backward to the inputs
        return False, "off: the run is too short to make up for the minute that compiling takes"
    return (
        True,
        "on, if the run is long enough to make up for the minute that compiling takes" if not trained else "on",
    )


def _liger(config: RunConfig, module_map: ModuleMap, device: Device, compiles: bool) -> tuple[bool, str]:
    way, kind = config.training.use_liger_kernel, module_map.model_type
    can = device.is_gpu and find_spec("liger_kernel") is not None and kind in LIGER_TYPES
    if way == "off" or (way == "on" and can):
        return way == "on", f"{way}, as set"
    if not can:
        lacks = "no GPU" if not device.is_gpu else f"none for {kind}" if kind not in LIGER_TYPES else "not installed"
        return False, f"off: {lacks}"
    if compiles:
        return False, "off: compiled layers are fused already"
    return True, f"on: it has kernels for {kind}"


def _optimizer(way: str, device: Device) -> tuple[str, str]:
    if way == "adamw_torch":
        return "adamw_torch_fused", "AdamW, fused"
    if not device.is_gpu:
        return "adamw_torch_fused", "AdamW, fused: the paged 8-bit one needs a GPU"
    return way, "paged 8-bit AdamW, as set"
