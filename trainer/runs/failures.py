"""Explains why a run failed and what to do: exception -> cause and message, with the plan's numbers."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.common.disk import disk_full
from trainer.common.errors import UserError, causes, is_out_of_memory
from trainer.common.formatting import duration, size
from trainer.common.heartbeat import EVALUATING, SAMPLING, SAVING, TRAINING, Silence
from trainer.config.schema import RunConfig

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
# how torch and safetensors report a full disk
_DISK_WORDS = ("no space left", "os error 28", "file too large", "os error 27", "streamwriter", "unexpected pos")
PER_TOKEN = ("activations", "logits", "workspace")
"""Memory items of the plan that grow with batch size and length."""
TRAINED_ITEMS = ("trained weights", "gradients", "optimizer", "optimizer, paged", "optimiser", "optimiser, paged")
"""Memory items that grow with the trainable parameters; plans of version 0.1 spell two the British way."""
_PHASES = {
    TRAINING: "in a training step",
    EVALUATING: "during an evaluation",
    SAMPLING: "while answering sample prompts",
    SAVING: "while saving",
}


def explain(error: BaseException, config: RunConfig | None, plan: Mapping[str, Any]) -> tuple[str, str]:
    """Cause and message of a run that ended with `error`."""
    if isinstance(error, UserError):
        return error.cause, str(error)
    chain = list(causes(error))
    text = " ".join(str(part) for part in chain).lower()
    if any(isinstance(part, OSError) and part.errno in _DISK for part in chain) or _any(_DISK_WORDS, text):
        return "disk", str(disk_full())
    if is_out_of_memory(error):
        where = "The device" if "cuda" in text else "The machine"
        return "oom", f"{where} ran out of memory. {memory_advice(config, plan)}"
    if isinstance(error, FileNotFoundError):
        name = Path(str(error.filename)).name if error.filename else "A file"
        return "data", f"{name} is no longer there. Put it back and resume, or start a new run."
    return "bug", f"{type(error).__name__}: {str(error)[:300]}. worker.log has the full traceback."


def no_sign_of_life(silence: Silence) -> str:
    """What a worker's silence means."""
    return f"{_silence(silence)}: the worker may be hung."


def killed_hung(silence: Silence) -> str:
    """Message of a run whose worker was killed for its silence."""
    return f"{_silence(silence)}, so the worker was killed."


def _silence(silence: Silence) -> str:
    return f"No sign of life for {duration(silence.seconds)} {_PHASES.get(silence.phase, 'while starting')}"


def memory_advice(config: RunConfig | None, plan: Mapping[str, Any]) -> str:
    """What to reduce, with the plan's numbers."""
    items = {key: int(value) for key, value in dict(plan.get("memory") or {}).items() if value}
    if config is None or not items:
        return "Lower per_device_train_batch_size or max_length."
    largest = sorted(items.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{name} {size(value)}" for name, value in largest)
    return f"The plan counted on {size(sum(items.values()))}: {parts}. {_fixes(config, plan, items)}"


def _has_larger_micro_batches(config: RunConfig, plan: Mapping[str, Any]) -> bool:
    """Whether the run's micro-batches were larger than configured."""
    configured = config.training.per_device_train_batch_size
    return int(dict(plan.get("levers") or {}).get("per_device_train_batch_size", configured)) > configured


def _fixes(config: RunConfig, plan: Mapping[str, Any], items: Mapping[str, int]) -> str:
    training = config.training
    batch = training.per_device_train_batch_size
    half = sum(items.get(name, 0) for name in PER_TOKEN) // 2
    reductions = []
    if batch > 1:
        more = training.gradient_accumulation_steps * 2
        reductions.append(
            f"per_device_train_batch_size from {batch} to {batch // 2}, with gradient_accumulation_steps {more} "
            f"(about {size(half)} less)"
        )
    if training.max_length > 8:
        reductions.append(
            f"max_length from {training.max_length} to {training.max_length // 2} (about {size(half)} less)"
        )
    others = ["set micro_batches to off"] if _has_larger_micro_batches(config, plan) else []
    if any(tick.treatment == "full" for tick in config.modules) and items.get("gradients", 0) > half:
        full = sum(items.get(name, 0) for name in TRAINED_ITEMS)
        others.append(f"fully train fewer modules (trained weights take {size(full)})")
    if training.activation_checkpointing != "on":
        others.append("set activation_checkpointing to on")
    if config.model.quantization != "nf4" and not (plan.get("checkpoint") or {}).get("held"):
        others.append("set quantization to nf4")
    lower = "Lower " + ", or ".join(reductions) if reductions else ""
    return ("; ".join(filter(None, [lower, *others])) or "Choose a smaller model") + "."


def _any(words: tuple[str, ...], text: str) -> bool:
    return any(word in text for word in words)
