"""The plan: what a configuration trains on a model and what that costs, before anything is loaded.

Computed from the module map alone, fast enough for every click on the page; the worker checks the plan against the
real model before the first step (`adapter.verify`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

from trainer.common.devices import CPU, Device
from trainer.common.errors import Issue
from trainer.config.schema import RunConfig
from trainer.models.added_tokens import with_vocabulary_size
from trainer.models.base_model import Base
from trainer.models.checkpoint_format import format_issues, prequantized, with_checkpoint_quantization
from trainer.models.module_map import ModuleMap
from trainer.planning import short_runs
from trainer.planning.adapter_limits import adapter_issues
from trainer.planning.coverage_warnings import coverage
from trainer.planning.device_limits import device_issues, device_warnings
from trainer.planning.memory.correction import UNCORRECTED, MemoryCorrection
from trainer.planning.memory.cures import Cures, find_cures
from trainer.planning.memory.estimate import estimate
from trainer.planning.memory.peak import Estimate, seen_by_torch
from trainer.planning.memory.warnings import left_unquantized, too_large
from trainer.planning.parameter_counts import file_bytes, file_sizes, trainable_count
from trainer.planning.performance import PerformanceSettings, choose_settings
from trainer.planning.row_width import widest
from trainer.planning.samples import SampleCost, sample_cost
from trainer.planning.schedule import UNREAD, Size, total_steps
from trainer.planning.speed_suggestions import Choice, speed_suggestions
from trainer.planning.targets import MatchReport, Resolution, Target, resolve


@dataclass(frozen=True)
class Plan:
    """What one configuration means on one model."""

    total: int
    """Parameters of the model."""
    trainable: int
    """Trainable parameters, without entries of a sliced LoRA that stay zero."""
    stored: int
    """Elements in the adapter file."""
    adapter_bytes: int
    memory: dict[str, int]
    """Peak bytes on the training device, by item."""
    device: Device
    """The training device, as it was when the plan was made."""
    length: int
    """max_length of the configuration."""
    performance: PerformanceSettings
    """Chosen for speed; they do not change what the run learns."""
    steps: int
    """Optimizer steps of the run; 0 if its data has not been read."""
    fits: dict[str, int]
    """The largest per_device_train_batch_size at this max_length, and the largest max_length of one row; 0 if not
    even the smallest fits; empty if the device's memory is unknown."""
    receipts: tuple[MatchReport, ...]
    targets: tuple[Target, ...]
    checkpoint: dict[str, Any]
    """Quantization format of the published weights, and how the run holds them; empty if they are not quantized."""
    loading: int
    """Peak bytes on the training device while loading, if weights change their format on the way; else 0."""
    issues: tuple[Issue, ...]
    """What keeps the run from starting."""
    samples: SampleCost
    """What the answers to held-out prompts cost, at most."""
    auto_class: str = "AutoModelForCausalLM"
    """The class of transformers that loads the base model."""
    warnings: tuple[Issue, ...] = ()
    """What the user should know before starting."""
    suggestions: tuple[Issue, ...] = ()
    """What would make the run faster, but changes what it learns."""
    correction: MemoryCorrection = UNCORRECTED
    """What was measured on this card, included in `memory`."""
    base: Base = Base()
    """The model's files, if they were examined: which commit, what is still to download."""

    @property
    def share(self) -> float:
        """Trainable parameters divided by the model's parameters."""
        return self.trainable / self.total if self.total else 0.0

    @property
    def needed(self) -> int:
        """Bytes on the training device at the peak."""
        return sum(self.memory.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "auto_class": self.auto_class,
            "total": self.total,
            "trainable": self.trainable,
            "stored": self.stored,
            "adapter_bytes": self.adapter_bytes,
            "memory": self.memory,
            "memory_predicted": seen_by_torch(self.memory),
            "checkpoint": self.checkpoint,
            "loading": self.loading,
            "memory_correction": {"factor": self.correction.factor, "runs": self.correction.runs},
            "device_memory": {
                "device": self.device.name,
                "model": self.device.model,
                "free": self.device.free,
                "total": self.device.total,
            },
            "fits": self.fits,
            "levers": self.performance.to_json(),
            "steps": self.steps or None,
            "samples": self.samples.to_json(),
            "receipts": [asdict(receipt) | {"names": list(receipt.names)} for receipt in self.receipts],
            "issues": [issue.to_json() for issue in self.issues],
            "warnings": [issue.to_json() for issue in self.warnings],
            "suggestions": [issue.to_json() for issue in self.suggestions],
            "base": self.base.to_json(),
        }

    def on(self, base: Base) -> Plan:
        """This plan with the result of examining the model's files."""
        issues, warnings = (*self.issues, *base.issues), (*self.warnings, *base.warnings)
        return replace(self, issues=issues, warnings=warnings, base=base)


def make_plan(
    config: RunConfig,
    module_map: ModuleMap,
    device: Device = CPU,
    vocabulary: Collection[str] = (),
    data: Size = UNREAD,
    correction: MemoryCorrection = UNCORRECTED,
) -> Plan:
    """The plan of `config` on the model that `module_map` describes, trained on `device`.

    `vocabulary`: the tokenizer's tokens, only needed if new ones are added. `data`: the size of the training data.
    `correction`: what was measured on this card.
    """
    plan, chosen, least, choose = _plan(config, module_map, device, vocabulary, data, correction)

    def planned(changed: RunConfig) -> Plan:
        return _plan(changed, module_map, device, vocabulary, data, correction)[0]

    def needs(changed: RunConfig) -> int:
        if changed.adapter != config.adapter:  # other targets
            return planned(changed).needed
        return choose(with_checkpoint_quantization(changed, module_map.checkpoint)).needed

    def fits(changed: RunConfig) -> int:
        other = planned(changed)
        return other.needed if other.needed <= device.room and not set(other.issues) - set(plan.issues) else 0

    def cures() -> Cures:
        own = prequantized(module_map.checkpoint) is not None
        return find_cures(config, device.room, not own, needs, fits)

    return replace(
        plan,
        warnings=(*too_large(least, plan.memory, device, cures), *plan.warnings),
        suggestions=tuple(speed_suggestions(chosen, device.room, choose)) if device.is_gpu and device.room else (),
    )


def _plan(
    config: RunConfig,
    module_map: ModuleMap,
    device: Device,
    vocabulary: Collection[str],
    data: Size,
    correction: MemoryCorrection,
) -> tuple[Plan, Choice, Estimate, Callable[[RunConfig], Choice]]:
    """As `make_plan`, without what other settings would give. Also returns what was chosen, the estimate with as much
    recomputation as allowed, and the choice for another configuration of the same targets."""
    new = config.model.new_tokens
    module_map = with_vocabulary_size(module_map, len(vocabulary) + len(new)) if new else module_map
    checkpoint = module_map.checkpoint
    obstacles, ignored = format_issues(config, checkpoint, device)
    config = with_checkpoint_quantization(config, checkpoint)
    found = resolve(config, module_map)
    costs = _estimates(module_map, found, device, correction)

    def choose(config: RunConfig) -> Choice:
        width = widest(config.training, device.is_gpu, data)
        return Choice(*choose_settings(config, module_map, device, partial(costs, config), data), width)

    chosen = choose(config)
    memory = chosen.costs.items(chosen.performance.per_device_train_batch_size, chosen.width)
    least = costs(config, config.training.activation_checkpointing != "off")
    fits = least.largest(device.room) if device.room else {}
    plan = Plan(
        total=module_map.parameters,
        trainable=sum(trainable_count(target, config.adapter) for target in found.targets),
        stored=sum(sum(file_sizes(target, config.adapter, module_map)) for target in found.targets),
        adapter_bytes=file_bytes(found.targets, config.adapter, module_map),
        memory=memory,
        device=device,
        length=config.training.max_length,
        performance=chosen.performance,
        steps=total_steps(config.training, data.examples),
        fits=fits,
        receipts=tuple(found.receipts),
        targets=tuple(found.targets),
        checkpoint=checkpoint.to_plan_json(config.model.quantization, usable=not obstacles) if checkpoint else {},
        loading=chosen.costs.loading_peak,
        issues=(*device_issues(config, device), *obstacles, *_problems(config, module_map, vocabulary, found)),
        samples=sample_cost(config, total_steps(config.training, data.examples)),
        auto_class=module_map.auto_class,
        warnings=(
            *device_warnings(config, device),
            *ignored,
            *found.warnings,
            *coverage(config, module_map, found.targets),
            *left_unquantized(config, module_map, found.targets, device),
            *short_runs.warnings(config.training, data.examples),
        ),
        correction=correction,
    )
    return plan, chosen, least, choose


def _estimates(
    module_map: ModuleMap, found: Resolution, device: Device, correction: MemoryCorrection
) -> Callable[[RunConfig, bool], Estimate]:
    """The memory estimate of a configuration, without checkpointing (False) and with it; computed once each."""

    @cache
    def costs(config: RunConfig, recompute: bool) -> Estimate:
        computed = estimate(config, module_map, found.targets, device, recompute)
        return replace(computed, correction=correction.factor)

    return costs


def _problems(
    config: RunConfig, module_map: ModuleMap, vocabulary: Collection[str], found: Resolution
) -> Iterator[Issue]:
    """What in the ticks, the adapter, the new tokens and the length keeps the run from starting."""
    yield from found.issues
    yield from adapter_issues(config, module_map, found.targets)
    if known := [token for token in config.model.new_tokens if token in vocabulary]:
        problem = f"The tokenizer already has {', '.join(known)}."
        yield Issue("model.new_tokens", problem, "Remove it from new_tokens.")
    if not found.targets and not found.issues:
        problem = "No tick matches a module." if config.modules else "Nothing is ticked."
        yield Issue("modules", problem, "Tick at least one module.")
    length, most = config.training.max_length, module_map.max_positions
    if most and length > most:
        problem = f"{length} tokens exceed the model's maximum sequence length."
        yield Issue("training.max_length", problem, f"Use at most {most}.", {"training.max_length": most})
