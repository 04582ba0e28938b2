"""Where PEFT would train something else than the full path it is given, and what to do about it.

For mixture-of-experts models it takes `up_proj` and the like for names of experts as transformers 4 had
them (`_convert_peft_config_moe`); when it loads an adapter it renames some keys as transformers renames
those of checkpoints, and loses what it renamed; `modules_to_save` matches every path that ends alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from peft import LoraConfig
from peft.utils import transformers_weight_conversion as conversion
from torch import nn

from trainer.modules import ModuleKind

LOST = "PEFT renames its LoRA when it loads the adapter, and loses it: only full training works."
BY_WEIGHT = "PEFT takes its name for an expert's, so its LoRA is put on the weight: no dropout, no DoRA, no 4-bit."


def mark(kinds: Iterable[ModuleKind], model: nn.Module, model_type: str) -> Iterator[ModuleKind]:
    """The kinds with `by_weight` set, and without full training, where PEFT's matching asks for it."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    swapped = experts_names(model_type)
    kinds = list(kinds)
    lost = lost_on_load([kind.modules[0] for kind in kinds if "lora" in kind.treatments], model, model_type)
    for kind in kinds:
        if kind.modules[0] in lost:
            rest = tuple(item for item in kind.treatments if item != "lora")
            kind = replace(kind, treatments=rest, reason=LOST)
        leaf = kind.modules[0].rpartition(".")[2]
        if leaf in swapped and kind.class_name == "Linear" and "lora" in kind.treatments:
            kind = replace(kind, by_weight=True, reason=kind.reason or BY_WEIGHT)
        others = sorted({other for module in kind.modules for other in namesakes(module, names)} - set(kind.modules))
        if others and "full" in kind.treatments:
            rest = tuple(item for item in kind.treatments if item != "full")
            kind = replace(kind, treatments=rest, reason=f"In full, PEFT would train {others[0]} as well.")
        yield kind


def lost_on_load(modules: Iterable[str], model: nn.Module, model_type: str) -> set[str]:
    """Of `modules`, those whose LoRA PEFT would rename on loading, and so lose without a word."""
    if conversion.get_checkpoint_conversion_mapping(model_type) is None:
        return set()
    keys = {f"base_model.model.{module}.lora_A.weight": module for module in modules}
    state = {key: torch.zeros(1, 1) for key in keys}
    kept = conversion.convert_peft_adapter_state_dict_for_transformers(model, LoraConfig(), state)
    return {module for key, module in keys.items() if key not in kept}


def experts_names(model_type: str) -> set[str]:
    """Last parts of paths that PEFT turns into experts' names for this type of model."""
    if conversion.get_checkpoint_conversion_mapping(model_type) is None:
        return set()
    base = conversion._MODEL_TO_CONVERSION_PATTERN.get(model_type)
    return set(conversion._MOE_TARGET_MODULE_MAPPING.get(base, {}))


def namesakes(module: str, names: Iterable[str]) -> list[str]:
    """Other modules whose path ends with the whole path of `module`."""
    return [name for name in names if name != module and name.endswith(module)]
