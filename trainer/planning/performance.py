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
from trainer.planning.attention import SDPA, choose_attention
from trainer.planning.memory.peak import Estimate
from trainer.planning.micro_batches import choose_micro_batches
from trainer.planning.schedule import Size, total_tokens

COMPILE_MIN_FLOPS = 7e16
"""FLOPs of a run from which compiling pays for the time it takes. Estimated, not measured: the two graphs of a kind
of layer take 25 s, compiled layers save 15 % of a step against Liger's, so 170 s of training at 4e14 FLOP/s."""
LIGER_TYPES = (
    "gemma", "gemma2", "gemma3_text", "glm4", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3",
    "smollm3",
)  # fmt: skip
"""Model types with Liger kernels for norms, rotary embeddings and MLPs."""


@dataclass(frozen=True)
class PerformanceSettings:
    """The performance settings of one run."""

    per_device_train_batch_size: int
    """Rows of a micro-batch, each one example or, packed, several."""
    gradient_accumulation_steps: int
    """Micro-batches of a step; about as many where rows are packed."""
    every_n_layers: int = 0
    """Every n-th layer recomputes its activations in the backward pass: 1 means all, 0 none."""
    attn_implementation: str = SDPA
    """`sdpa`, `flex_attention` or `varlen` (`planning/attention.py`)."""
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
    config: RunConfig, module_map: ModuleMap, device: Device, costs: Callable[[bool], Estimate], data: Size
) -> tuple[PerformanceSettings, Estimate]:
    """The performance settings of `config` on `device`, and the memory estimate with them.

    `costs`: the estimate without checkpointing (False) and with it (True). `data`: the size of the training data;
    zeros if it has not been counted yet.
    """
    training = config.training
    why: dict[str, str] = {}
    micro, needs = choose_micro_batches(config, module_map, device, costs, data)
    why["activation_checkpointing"] = micro.why_checkpointing
    why["micro_batches"] = micro.why
    attention, why["attn_implementation"] = choose_attention(config, module_map, device)
    compiles, why["torch_compile"] = _compile(config, module_map, device, total_tokens(training, data))
    liger, why["use_liger_kernel"] = _liger(config, module_map, device, compiles)
    why["optim"] = needs.optimizer.why
    chosen = PerformanceSettings(
        per_device_train_batch_size=micro.rows,
        gradient_accumulation_steps=micro.per_step,
        every_n_layers=micro.every_n_layers,
        attn_implementation=attention,
        torch_compile=compiles,
        use_liger_kernel=liger,
        optim=needs.optimizer.name,
        why=why,
    )
    return chosen, needs


def _compile(config: RunConfig, module_map: ModuleMap, device: Device, trained: int) -> tuple[bool, str]:
    way = config.training.torch_compile
    if device.no_triton is not None:
        return False, f"off: {device.no_triton.reason}"
    if way != "auto":
        return way == "on", f"{way}, as set"
    if not device.is_gpu:
        return False, "off: it only helps on a GPU"
    if not device.bfloat16:
        return False, "off: it needs a GPU with bfloat16"
    own = prequantized(module_map.checkpoint)
    if own and own.method != "bitsandbytes":
        return False, f"off: the kernels of {own.title} break the graph"
    experts = module_map.forward.experts_per_token > 1 or any(kind.experts for kind in module_map.kinds)
    if config.model.quantization == "int8" or experts:
        return False, "off: int8 and experts break the graph"
    if trained and 4 * module_map.parameters * trained < COMPILE_MIN_FLOPS:  # forward, and backward to the inputs
        return False, "off: the run is too short to make up for the time that compiling takes"
    return (
        True,
        "on, if the run is long enough to make up for the time that compiling takes" if not trained else "on",
    )


def _liger(config: RunConfig, module_map: ModuleMap, device: Device, compiles: bool) -> tuple[bool, str]:
    way, kind = config.training.use_liger_kernel, module_map.model_type
    if device.no_triton is not None:
        return False, f"off: {device.no_triton.reason}"
    can = device.is_gpu and liger_kernels(kind)
    if way == "off" or (way == "on" and can):
        return way == "on", f"{way}, as set"
    if not can:
        lacks = "no GPU" if not device.is_gpu else f"none for {kind}" if kind not in LIGER_TYPES else "not installed"
        return False, f"off: {lacks}"
    if compiles:
        return False, "off: compiled layers are fused already"
    return True, f"on: it has kernels for {kind}"


def liger_kernels(kind: str) -> bool:
    """Whether Liger is installed and has kernels for models of this type."""
    return find_spec("liger_kernel") is not None and kind in LIGER_TYPES
