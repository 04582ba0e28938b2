"""Cases where PEFT would train or load something other than the given full path."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import (
    convert_peft_adapter_state_dict_for_transformers,
    convert_peft_config_for_transformers,
)
from transformers import PreTrainedModel

from trainer.models.module_map import ModuleKind

BY_WEIGHT = (
    "PEFT mistakes its name for an expert's, so LoRA targets the weight itself: no dropout, no DoRA, "
    "and it stays unquantized."
)


class PeftNames:
    """What PEFT matches for the full name of a module, which is not always that module alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.replaced: dict[str, bool] = {}
        self.lost: dict[str, bool] = {}
        self.firsts: dict[str, set[str]] = defaultdict(set)
        for name, _ in model.named_modules():
            parts = name.split(".")
            for start, part in enumerate(parts):
                self.firsts[".".join(parts[start + 1 :])].add(part if start == 0 else "." + part)

    def hits_another(self, name: str) -> bool:
        """Whether another module's name ends with this one, so that PEFT would match it as well."""
        first, _, rest = name.partition(".")
        return any(other.endswith(first) and other != first for other in self.firsts[rest])

    def lost_on_load(self, name: str) -> bool:
        """Whether PEFT would rename this module's LoRA when loading an adapter, and silently lose it.

        It does as transformers does with the keys of checkpoints, `shared_expert` to `shared_experts` for one.
        """
        in_any_layer = re.sub(r"\.\d+\.", ".0.", name)
        if in_any_layer not in self.lost:
            key = f"base_model.model.{name}.lora_A.weight"
            state = {key: torch.zeros(1, 1)}
            kept = convert_peft_adapter_state_dict_for_transformers(self.model, LoraConfig(), state)
            self.lost[in_any_layer] = key not in kept
        return self.lost[in_any_layer]

    def becomes_experts(self, name: str) -> bool:
        """Whether PEFT mistakes the name for a pre-stacking expert name, and adapts the experts instead."""
        leaf = name.rpartition(".")[2]
        if leaf not in self.replaced:
            config = LoraConfig(target_modules=[name])
            try:
                convert_peft_config_for_transformers(config, self.model, None)
            except ValueError:  # it misses the names that were stacked together with this one
                self.replaced[leaf] = True
            else:
                self.replaced[leaf] = name not in (config.target_modules or ())
        return self.replaced[leaf]


def mark_by_weight(kinds: Iterable[ModuleKind], peft: PeftNames) -> Iterator[ModuleKind]:
    """The kinds, with `by_weight` set where PEFT would take the module's name for an expert's."""
    for kind in kinds:
        if kind.class_name != "Parameter" and "lora" in kind.treatments and peft.becomes_experts(kind.modules[0]):
            kind = replace(kind, by_weight=True, reason=kind.reason or BY_WEIGHT)
        yield kind
