"""Limits of PiSSA and DoRA: what they cannot be combined with, and which modules they cannot train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from trainer.common.errors import Issue
from trainer.config.schema import RunConfig
from trainer.models.checkpoint_format import prequantized
from trainer.models.module_map import ModuleMap
from trainer.planning.targets import Target


def adapter_issues(config: RunConfig, module_map: ModuleMap, targets: Sequence[Target]) -> list[Issue]:
    """Why PiSSA or DoRA, if set, cannot train these targets."""
    issues: list[Issue] = []
    if config.adapter.init_lora_weights == "pissa":
        issues += _pissa_settings(config, module_map, targets)
        problems = (issue for target in targets if (issue := _pissa_target(target)))
        issues += islice(problems, 1)  # the first one says enough
    if config.adapter.use_dora:
        issues += _dora(config, module_map, targets)
    return issues


def _pissa_settings(config: RunConfig, module_map: ModuleMap, targets: Sequence[Target]) -> Iterator[Issue]:
    """PiSSA (arXiv:2404.02948) decomposes whole unquantized linears and starts with a nonzero B."""
    where = "adapter.init_lora_weights"
    checkpoint = prequantized(module_map.checkpoint)
    if checkpoint or config.model.quantization != "none":
        fix = "Use the default initialization." if checkpoint else "Set quantization to none."
        yield Issue(where, "PiSSA cannot decompose quantized weights.", fix)
    if config.adapter.use_dora:
        yield Issue(where, "PiSSA and DoRA cannot be combined.", "Choose one of them.")
    if config.adapter.bias == "lora_only":
        yield Issue(where, "PiSSA is saved without biases.", "Set bias to none.")
    scales = {(target.r, target.lora_alpha) for target in targets if target.treatment == "lora"}
    if config.adapter.use_rslora and len(scales) > 1:
        problem = "PiSSA with rsLoRA supports a single rank and alpha."
        yield Issue(where, problem, "Turn use_rslora off, or remove the ranks and alphas of single kinds.")


def _pissa_target(target: Target) -> Issue | None:
    """Why PiSSA cannot train this target, if so."""
    where, name = "adapter.init_lora_weights", target.kind.name
    if target.treatment != "lora":
        what = "in full" if target.treatment == "full" else "its new rows"
        problem = f"PiSSA is saved as LoRA alone, and {name} trains {what}, which would be lost."
        return Issue(where, problem, "Use the default initialization, or train LoRA alone.")
    if target.slices or target.kind.class_name in ("Embedding", "Parameter"):
        what = "a slice of a fused module" if target.slices else f"of the class {target.kind.class_name}"
        problem = f"{name} is {what}, which PiSSA cannot start from."
        return Issue(where, problem, "Use the default initialization, or untick it.")
    if target.r > (most := min(target.shape)):
        problem = f"{name} has only {most} singular values, but PiSSA needs r = {target.r} of them."
        return Issue("adapter.r", problem, f"Use at most {most}.")
    return None


def _dora(config: RunConfig, module_map: ModuleMap, targets: Sequence[Target]) -> Iterator[Issue]:
    """DoRA needs the weight's norm, which PEFT 0.21 cannot compute for FP8 or, after a forward pass, for int8."""
    checkpoint = prequantized(module_map.checkpoint)
    readable = config.model.quantization in ("nf4", "none")
    if readable and (checkpoint is None or checkpoint.method == "bitsandbytes"):
        return
    title = checkpoint.title if checkpoint else config.model.quantization
    fix = "Turn use_dora off." if checkpoint else "Set quantization to nf4 or none."
    for target in targets:
        quantized = target.kind.class_name in ("Linear", "Conv1D") and target.kind.group != "embedding"
        if target.treatment == "lora" and quantized:
            problem = f"DoRA cannot read {title} weights, such as those of {target.kind.name}."
            yield Issue("adapter.use_dora", problem, fix)
            return
