"""A plan's targets as the arguments of PEFT's LoraConfig, without importing PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.config.schema import AdapterConfig
from trainer.models.module_map import ModuleMap
from trainer.planning.targets import Target

NO_TARGETS = "dummy-target-modules"
"""PEFT's placeholder (`DUMMY_TARGET_MODULES`) for an adapter that only has modules_to_save."""


def lora_arguments(targets: Sequence[Target], adapter: AdapterConfig, module_map: ModuleMap) -> dict[str, Any]:
    """Arguments of LoraConfig as plain values, with full module paths only, never names to match."""
    lora = [target for target in targets if target.treatment == "lora"]
    modules = [target.module for target in lora if not _by_parameter(target)]
    parameters = [f"{t.module}.weight" if t.kind.by_weight else t.module for t in lora if _by_parameter(t)]
    full = [name for target in targets if target.treatment == "full" for name in with_tied(target, module_map)]
    return {
        "task_type": "CAUSAL_LM",
        "r": adapter.r,
        "lora_alpha": _as_int_if_whole(adapter.lora_alpha),
        "lora_dropout": adapter.lora_dropout,
        "bias": adapter.bias,
        "use_rslora": adapter.use_rslora,
        "use_dora": adapter.use_dora,
        "init_lora_weights": True if adapter.init_lora_weights == "default" else adapter.init_lora_weights,
        "target_modules": modules or ([] if parameters else NO_TARGETS),
        "target_parameters": parameters or None,
        "modules_to_save": list(dict.fromkeys(full)) or None,
        "rank_pattern": {target.module: target.r for target in lora if target.r != adapter.r},
        "alpha_pattern": {
            target.module: _as_int_if_whole(target.lora_alpha)
            for target in lora
            if target.lora_alpha != adapter.lora_alpha
        },
    }


def with_tied(target: Target, module_map: ModuleMap) -> list[str]:
    """The module itself, and the ones it shares its weight with."""
    partner = [kind for kind in module_map.kinds if kind.tied_to == target.kind.name]
    if target.kind.tied_to:
        partner += [kind for kind in module_map.kinds if kind.name == target.kind.tied_to]
    return [target.module, *(name for kind in partner for name in kind.modules)]


def _by_parameter(target: Target) -> bool:
    return target.kind.class_name == "Parameter" or target.kind.by_weight


def _as_int_if_whole(number: float) -> float:
    """16 rather than 16.0, as PEFT writes it."""
    return int(number) if float(number).is_integer() else number
