"""The plan: what a configuration trains on a model and what that costs, before anything is loaded.

Arithmetic over the module map alone, so that the page can follow every tick; the worker holds the
plan against the real model before its first step (`adapter.verify`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from trainer import short_runs
from trainer.config import RunConfig
from trainer.counts import file_bytes, file_sizes, trainable_count
from trainer.devices import CPU, Device
from trainer.errors import Issue, Value
from trainer.failures import size
from trainer.levers import Levers, pick
from trainer.memory import Estimate, estimate, seen_by_torch
from trainer.modules import ModuleMap
from trainer.resolve import Receipt, Target, resolve
from trainer.schedule import Size, total_steps, total_tokens
from trainer.tokens import grow


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
    """Bytes on the training device, by item, at the moment that needs most."""
    device: Device
    """Where it would train, as it was when the plan was made."""
    length: int
    """max_length of the configuration."""
    levers: Levers
    """What was picked to make it fast."""
    steps: int
    """Optimizer steps of the run; 0 where its data have not been read."""
    fits: dict[str, int]
    """The largest per_device_train_batch_size at this max_length, and the largest max_length of one row;
    empty where the device's memory is not known."""
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

    @property
    def needed(self) -> int:
        """Bytes on the training device at the peak."""
        return sum(self.memory.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "trainable": self.trainable,
            "stored": self.stored,
            "adapter_bytes": self.adapter_bytes,
            "memory": self.memory,
            "memory_predicted": seen_by_torch(self.memory),
            "device_memory": {"device": self.device.name, "free": self.device.free, "total": self.device.total},
            "fits": self.fits,
            "levers": self.levers.to_json(),
            "steps": self.steps or None,
            "receipts": [asdict(receipt) | {"names": list(receipt.names)} for receipt in self.receipts],
            "issues": [issue.to_json() for issue in self.issues],
            "warnings": [issue.to_json() for issue in self.warnings],
        }


def make_plan(
    config: RunConfig,
    module_map: ModuleMap,
    device: Device = CPU,
    vocabulary: Collection[str] = (),
    data: Size | None = None,
) -> Plan:
    """The plan of `config` on the model that `module_map` describes, trained on `device`.

    `vocabulary`: the tokens of its tokenizer; needed only where new ones are added. `data`: what there is to train
    on, where that is known.
    """
    data = data or Size(0, 0.0)
    new = config.model.new_tokens
    module_map = grow(module_map, len(vocabulary) + len(new)) if new else module_map
    found = resolve(config, module_map)
    issues = list(found.issues)
    if known := [token for token in new if token in vocabulary]:
        problem = f"The tokenizer has {', '.join(known)} already."
        issues.append(Issue("model.new_tokens", problem, "Take it out."))
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
    training = config.training

    @cache
    def costs(recompute: bool) -> Estimate:
        return estimate(config, module_map, found.targets, device, recompute)

    levers, needs = pick(config, module_map, device, costs, total_tokens(training, data))
    memory = needs.items(levers.per_device_train_batch_size, training.max_length)
    least = costs(training.activation_checkpointing != "off")
    fits = least.largest(device.room) if device.room else {}
    trainable = sum(trainable_count(target, config.adapter) for target in found.targets)
    stored = sum(sum(file_sizes(target, config.adapter, module_map)) for target in found.targets)
    return Plan(
        total=module_map.parameters,
        trainable=trainable,
        stored=stored,
        adapter_bytes=file_bytes(found.targets, config.adapter, module_map),
        memory=memory,
        device=device,
        length=training.max_length,
        levers=levers,
        steps=total_steps(training, data.examples),
        fits=fits,
        receipts=tuple(found.receipts),
        targets=tuple(found.targets),
        issues=tuple(issues),
        warnings=(
            *found.warnings,
            *_too_large(least, memory, device, fits),
            *short_runs.warnings(training, data.examples),
        ),
    )


def _too_large(costs: Estimate, memory: dict[str, int], device: Device, fits: dict[str, int]) -> list[Issue]:
    """A warning where the run needs more than the device has, with what would make it fit."""
    needed = sum(memory.values())
    if not device.room or needed <= device.room:
        return []
    has = f"{size(device.total)} in all" if device.room == device.total else f"{size(device.free)} free"
    problem = f"This needs about {size(needed)}, and the {'GPU' if device.is_gpu else 'machine'} has {has}."
    cures, changes = _cures(costs, fits)
    return [Issue("training.per_device_train_batch_size", problem, " ".join(cures), changes)]


def _cures(costs: Estimate, fits: dict[str, int]) -> tuple[list[str], dict[str, Value]]:
    """What to lower, in sentences, and the changes that the first of them asks for, which surely suffice."""
    config, batch, length = costs.config, fits["per_device_train_batch_size"], fits["max_length"]
    cures, changes = [], dict[str, Value]()
    if batch:
        cures.append(f"Lower it to {batch}.")
        changes = {"training.per_device_train_batch_size": batch}
    elif length >= 8:
        cures.append(f"Lower it to 1, and max_length to {length}.")
        changes = {"training.per_device_train_batch_size": 1, "training.max_length": length}
    if config.training.activation_checkpointing == "off":
        cures.append("Set activation_checkpointing to auto.")
    if config.model.quantization != "nf4":
        cures.append("Set quantization to nf4.")
    return cures or ["Choose a smaller model, or train fewer modules in full."], changes
