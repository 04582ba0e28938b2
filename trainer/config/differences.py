"""The settings in which configurations differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.common.formatting import rate_text
from trainer.common.stored_names import own_names
from trainer.config.schema import RunConfig

SEED = "training.seed"
STORED = ("data.path", "data.held_out", "data.general_text")
"""Names of stored files."""


def differences(configs: Sequence[RunConfig], seeds: Sequence[Sequence[int]]) -> dict[str, list[str]]:
    """Settings that differ, with their value in every configuration; `seeds`: those of each configuration's runs."""
    flat = [dict(_flat(config.to_json(), "")) for config in configs]
    for path in STORED:
        stored = [getattr(config.data, path.removeprefix("data.")) for config in configs]
        if len({values[path] for values in flat}) < len(set(stored)):  # different files with the same name
            for values, name in zip(flat, stored, strict=True):
                values[path] = name
    for values, config, own in zip(flat, configs, seeds, strict=True):
        values["modules"] = describe(config)
        values[SEED] = ", ".join(map(str, own))
    names = [name for name in (flat[0] if flat else {}) if name not in ("title", "schema")]
    return {name: [values[name] for values in flat] for name in names if len({values[name] for values in flat}) > 1}


def describe(config: RunConfig) -> str:
    """The ticks with their own settings: `LoRA q_proj (r 8, layers 0-3), k_proj · full lm_head (lr 2e-5)`."""
    parts = []
    for treatment, title in (("lora", "LoRA"), ("full", "full")):
        names = []
        for tick in config.modules:
            if tick.treatment == treatment:
                own = {
                    "r": tick.r,
                    "alpha": tick.lora_alpha,
                    "lr": rate_text(tick.lr) if tick.lr else "",
                    "layers": tick.layers,
                }
                extras = ", ".join(f"{key} {value}" for key, value in own.items() if value)
                names.append(f"{tick.name} ({extras})" if extras else tick.name)
        if names:
            parts.append(f"{title} {', '.join(names)}")
    return " · ".join(parts)


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        where = f"{path}.{key}" if path else key
        if isinstance(item, dict):
            yield from _flat(item, where)
        else:
            yield where, own_names(item) if where in STORED else _shown(item)


def _shown(value: Any) -> str:
    """A setting's value as text."""
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
