"""Which modules of a quantized checkpoint are quantized, and which treatments these still allow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION, HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from trainer.models.checkpoint_format import CheckpointFormat, read_format
from trainer.models.module_map import ModuleKind

LISTS = ("llm_int8_skip_modules", "modules_to_not_convert", "modules_in_block_to_quantize")
PATTERN = re.compile(r"[\w.\\*^$-]{1,300}")


def format_of(config: PretrainedConfig, model: PreTrainedModel) -> CheckpointFormat | None:
    """The format of the checkpoint described by `config`; `model` is built from it on the `meta` device."""
    value = quantization_config(config)
    found = read_format(value)
    if found is None:
        return None
    if reason := _obstacle(found, config, model, value):
        return replace(found, handling="refused", reason=reason)
    if not found.used_as_is:
        return found
    return replace(found, modules=tuple(_held(model, found.method, value)))


def quantization_config(config: PretrainedConfig) -> Mapping[str, Any]:
    """The `quantization_config` that transformers uses: the model's, or that of the text model inside."""
    value = getattr(config, "quantization_config", None)
    value = value or getattr(config.get_text_config(decoder=True), "quantization_config", None)
    return value if isinstance(value, Mapping) else value.to_dict() if value else {}


def without_unsupported_treatments(
    kinds: Iterable[ModuleKind], found: CheckpointFormat | None
) -> Iterator[ModuleKind]:
    """The kinds, without treatments that quantized weights do not support."""
    held = set(found.modules) if found else set()
    for kind in kinds:
        quantized = [module for module in kind.modules if module in held]
        if found is None or not quantized or not kind.treatments:
            yield kind
            continue
        some = f" in {len(quantized)} of {len(kind.modules)} layers" if len(quantized) < len(kind.modules) else ""
        holds = f"The checkpoint holds it in {found.title}{some}, which"
        if kind.by_weight:  # PEFT would add LoRA to the weight itself
            yield replace(
                kind, treatments=(), reason=f"{holds} LoRA cannot reach here. Choose the unquantized model."
            )
            continue
        full = "cannot train in full: a trained copy would not load on this checkpoint. Choose the unquantized one."
        treatments = tuple(item for item in kind.treatments if item == "lora")
        yield replace(kind, treatments=treatments, reason=f"{holds} {full}")


def _obstacle(
    found: CheckpointFormat, config: PretrainedConfig, model: PreTrainedModel, value: Mapping[str, Any]
) -> str:
    """Why the checkpoint would not load into the mapped modules, as a clause; empty if it does.

    transformers 4 had an expert's linears as modules of their own, which bitsandbytes, GPTQ and AWQ quantized one by
    one; transformers 5 holds all experts of a layer as one parameter, and does not read those packed weights.
    bitsandbytes leaves such parameters plain when transformers 5 saves them; GPTQ and AWQ know only linears.
    """
    patched = {
        name
        for name, patch in MODULES_TO_PATCH_FOR_QUANTIZATION.items()
        if found.method in {str(getattr(method, "value", method)) for method in patch["quantization_methods"]}
    }
    if any(type(module).__name__ in patched for module in model.modules()):
        return "whose experts transformers replaces by separate modules while loading, which this map does not show"
    version = str(getattr(config, "transformers_version", None) or "4")
    experts = any(parameter.ndim == 3 for name, parameter in model.named_parameters() if "expert" in name)
    by_transformers_4 = found.method == "bitsandbytes" and version.partition(".")[0] in "01234"
    if experts and (by_transformers_4 or found.method in ("gptq", "awq")):
        return "whose experts were quantized one by one, which transformers 5 cannot read"
    if found.used_as_is and not all(_is_pattern(name) for key in LISTS for name in _names(value, key)):
        return "whose lists of modules cannot be read"
    return ""


def _names(value: Mapping[str, Any], key: str) -> list[Any]:
    """A flattened list of names; [None] if it is not a list."""
    found = value.get(key) or []
    if not isinstance(found, list):
        return [None]
    return [name for part in found for name in (part if isinstance(part, list) else [part])]


def _is_pattern(name: Any) -> bool:
    """Whether a name to skip is a harmless pattern, since transformers uses it as a regular expression."""
    return isinstance(name, str) and name.count("*") <= 3 and PATTERN.fullmatch(name) is not None


def _held(model: PreTrainedModel, method: str, value: Mapping[str, Any]) -> Iterator[str]:
    """Names of the modules that transformers would replace with quantized ones, by its own rules."""
    skipped = list(_skipped(model, method, value))
    inside = tuple(_names(value, "modules_in_block_to_quantize"))
    for name, module in model.named_modules():
        if not (type(module) is nn.Linear or (isinstance(module, Conv1D) and method != "awq")):
            continue
        in_layers = any(part.isdigit() for part in name.split("."))
        if method == "gptq" and not (in_layers and (not inside or name.endswith(inside))):
            continue
        if should_convert_module(name, skipped):
            yield name


def _skipped(model: PreTrainedModel, method: str, value: Mapping[str, Any]) -> Iterable[str]:
    if method == "gptq":
        return []
    key = "llm_int8_skip_modules" if method == "bitsandbytes" else "modules_to_not_convert"
    wide = model._keep_in_fp32_modules
    found: Iterable[str] = HfQuantizer.get_modules_to_not_convert(model, value.get(key), wide, method == "awq")
    return found
