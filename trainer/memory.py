"""What a run needs on its device, by item, from shapes alone. An estimate: `docs/benchmarks.md` says how close."""

from __future__ import annotations

from trainer.config import RunConfig
from trainer.modules import ModuleMap
from trainer.resolve import Target

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Per weight: 4 bits, an 8-bit scale per 64, a float32 per 256 scales (QLoRA, double quantisation)."""
INT8_BYTES = 1.0
CUDA_CONTEXT = 700 * 2**20
LOSS_CHUNK = 256
"""Tokens whose logits TRL holds at once in its fused loss head."""


def estimate_memory(
    config: RunConfig, module_map: ModuleMap, targets: list[Target], stored: int, on_gpu: bool
) -> dict[str, int]:
    """Bytes by item: weights, trained weights, gradients, optimiser, activations, logits, runtime."""
    training = config.training
    compute_bytes = 2 if (on_gpu and config.model.dtype == "auto") or config.model.dtype == "bfloat16" else 4
    tokens = training.per_device_train_batch_size * training.max_length
    eight_bit = on_gpu and training.optim == "paged_adamw_8bit"
    return {
        "weights": _weights(config, module_map, targets, compute_bytes),
        "trained weights": stored * 4,
        "gradients": stored * 4,
        "optimiser": stored * (2 if eight_bit else 8),
        "activations": _activations(config, module_map, tokens, compute_bytes),
        "logits": min(tokens, LOSS_CHUNK) * module_map.vocab_size * 4 * 3,
        "runtime": CUDA_CONTEXT if on_gpu else 0,
    }


def _weights(config: RunConfig, module_map: ModuleMap, targets: list[Target], compute_bytes: int) -> int:
    if config.model.quantization == "none":
        return module_map.parameters * compute_bytes
    full = {target.kind.name for target in targets if target.treatment == "full"}
    per_weight = NF4_BYTES if config.model.quantization == "nf4" else INT8_BYTES
    size = 0.0
    for kind in module_map.kinds:
        if kind.slice_of is None:
            quantised = kind.class_name == "Linear" and kind.group != "embedding" and kind.name not in full
            size += kind.parameters * (per_weight if quantised else compute_bytes)
    return int(size)


def _activations(config: RunConfig, module_map: ModuleMap, tokens: int, compute_bytes: int) -> int:
    """Korthikanti et al. 2022 (arXiv:2205.05198), without attention scores: SDPA keeps none."""
    hidden, inner = module_map.hidden_size, module_map.intermediate_size or 4 * module_map.hidden_size
    layer = tokens * (10 * hidden + 4 * inner) * compute_bytes
    if not config.training.activation_checkpointing:
        return layer * module_map.layers
    return tokens * hidden * compute_bytes * module_map.layers + layer
