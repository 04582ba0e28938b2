"""The plan: what a configuration trains on a model and what that costs, before anything is loaded.

Arithmetic over the module map alone, so that the page can follow every tick; the worker holds the
plan against the real model before its first step (`adapter.verify`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from trainer.config import AdapterConfig, RunConfig
from trainer.errors import Issue
from trainer.memory import estimate_memory
from trainer.modules import ModuleKind, ModuleMap
from trainer.resolve import Receipt, Target, resolve
from trainer.tokens import grow

BYTES_PER_WEIGHT = 4  # trainable weights are held and saved in float32


@dataclass(frozen=True)
class Plan:
    """What one configuration means on one model."""

    total: int
    """Parameters of the model."""
    trainable: int
    """Numbers that training may change; entries of a sliced LoRA that stay zero are not among them."""
    stored: int
    """Numbers in the adapter's file."""
    adapter_bytes: int
    memory: dict[str, int]
    """Bytes on the training device, by item."""
    receipts: tuple[Receipt, ...]
    targets: tuple[Target, ...]
    issues: tuple[Issue, ...]
    """What keeps the run from starting."""
    warnings: tuple[Issue, ...] = ()
    """What a person should know before starting."""

    @property
    def share(self) -> float:
        """Trainable numbers over the model's parameters."""
        return self.trainable / self.total if self.total else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "trainable": self.trainable,
            "stored": self.stored,
            "adapter_bytes": self.adapter_bytes,
            "memory": self.memory,
            "receipts": [asdict(receipt) | {"names": list(receipt.names)} for receipt in self.receipts],
            "issues": [issue.to_json() for issue in self.issues],
            "warnings": [issue.to_json() for issue in self.warnings],
        }


def make_plan(config: RunConfig, module_map: ModuleMap, on_gpu: bool = False, tokens: int = 0) -> Plan:
    """The plan of `config` on the model that `module_map` describes.

    `tokens`: how many tokens its tokenizer has; needed only where new ones are added.
    """
    module_map = grow(module_map, tokens + len(config.model.new_tokens)) if config.model.new_tokens else module_map
    found = resolve(config, module_map)
    issues = list(found.issues)
    if not found.targets and not issues:
        problem = "No tick matches a module." if config.modules else "Nothing is ticked."
        issues.append(Issue("modules", problem, "Tick at least one module."))
    if module_map.max_positions and config.training.max_length > module_map.max_positions:
        issues.append(
            Issue(
                "training.max_length",
                f"{config.training.max_length} tokens are more than this model was made for.",
                f"The most is {module_map.max_positions}.",
            )
        )
    trainable = sum(trainable_count(target, config.adapter) for target in found.targets)
    stored = sum(stored_count(target, config.adapter, module_map) for target in found.targets)
    return Plan(
        total=module_map.parameters,
        trainable=trainable,
        stored=stored,
        adapter_bytes=stored * BYTES_PER_WEIGHT,
        memory=estimate_memory(config, module_map, found.targets, stored, on_gpu),
        receipts=tuple(found.receipts),
        targets=tuple(found.targets),
        issues=tuple(issues),
        warnings=tuple(found.warnings),
    )


def trainable_count(target: Target, adapter: AdapterConfig) -> int:
    """Numbers of `target` that training may change."""
    if target.treatment == "rows":
        return prod(target.shape)
    if target.treatment == "full":
        return module_parameters(target.kind, target.shape)
    if not target.slices:
        return stored_lora(target, adapter)
    width, height = target.shape[-1], 0
    for part in target.slices:
        rank = part.columns[1] - part.columns[0]
        rows = sum(end - start for start, end in part.rows)
        height += rank * (width + rows) + (rows if adapter.use_dora else 0)
        if adapter.bias == "lora_only" and target.kind.bias:
            height += rows
    return height


def stored_count(target: Target, adapter: AdapterConfig, module_map: ModuleMap) -> int:
    """Numbers that the adapter's file holds for `target`: of a slice, its whole module's LoRA."""
    if target.treatment != "lora":
        return trainable_count(target, adapter)
    if target.slices:
        fused = module_map.get(target.kind.slice_of or "")
        if fused is not None:
            target = Target(target.module, fused, "lora", fused.shapes[fused.modules.index(target.module)], target.r)
    return stored_lora(target, adapter)


def stored_lora(target: Target, adapter: AdapterConfig) -> int:
    """Numbers of one LoRA: A and B, for experts one pair each, with DoRA's magnitudes and LoRA's biases."""
    *experts, height, width = target.shape
    count = target.r * (height + width) * prod(experts)
    if adapter.use_dora:
        count += width if target.kind.class_name == "Embedding" else height
    if adapter.bias == "lora_only" and target.kind.bias:
        count += height
    return count


def module_parameters(kind: ModuleKind, shape: tuple[int, ...]) -> int:
    """Parameters of one module of `kind`, its bias included."""
    if len(set(kind.shapes)) == 1 and kind.parameters:
        return kind.parameters // len(kind.modules)
    return prod(shape) + (shape[0] if kind.bias else 0)
