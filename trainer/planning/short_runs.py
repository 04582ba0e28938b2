"""Warns about runs with too few steps, and finds a batch size and epochs that give enough."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from trainer.common.errors import Issue, Value
from trainer.config.schema import TrainingConfig
from trainer.planning.schedule import batch_size, steps_per_epoch, total_steps

SENSIBLE_STEPS = 30
"""With fewer optimizer steps, an adapter hardly changes at usual learning rates."""
SMALLEST_BATCH = 4
"""Batch size below which gradients are too noisy to suggest it."""


def warnings(training: TrainingConfig, examples: int) -> list[Issue]:
    """A warning if a run over `examples` training examples takes too few steps; none if `examples` is 0 (unknown) and
    epochs decide."""
    steps = total_steps(training, examples)
    if not 0 < steps < SENSIBLE_STEPS:
        return []
    if training.max_steps > 0:
        changes: dict[str, Value] = {"training.max_steps": SENSIBLE_STEPS}
        problem = f"max_steps ends this run after {_steps(steps)}, too few to learn much."
        return [Issue("training.max_steps", problem, f"Raise it to {SENSIBLE_STEPS} or more.", changes)]
    better = _with_enough_steps(training, examples)
    problem = (
        f"{examples:,} training {'example makes' if examples == 1 else 'examples make'} only {_steps(steps)} "
        f"with a batch of {batch_size(training)} and {_epochs(training)}: too few to learn much."
    )
    fix = f"{_instead(training, better)}: {_steps(total_steps(better, examples))}."
    return [Issue("training.num_train_epochs", problem, fix, _changes(training, better))]


def _with_enough_steps(training: TrainingConfig, examples: int) -> TrainingConfig:
    """The same with SENSIBLE_STEPS or more: as few more epochs as possible, then as large a batch as possible."""
    batches = _smaller_batches(training)
    epochs = training.num_train_epochs
    if max(total_steps(item, examples) for item in batches) < SENSIBLE_STEPS:
        epochs = ceil(SENSIBLE_STEPS / max(steps_per_epoch(item, examples) for item in batches))
    tried = (replace(item, num_train_epochs=epochs) for item in batches)
    return next(item for item in tried if total_steps(item, examples) >= SENSIBLE_STEPS)


def _smaller_batches(training: TrainingConfig) -> list[TrainingConfig]:
    """This batch, and its halves down to SMALLEST_BATCH: fewer micro-batches first, then smaller ones."""
    found = [training]
    while batch_size(training) // 2 >= SMALLEST_BATCH:
        micro, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
        if accumulation > 1:
            training = replace(training, gradient_accumulation_steps=accumulation // 2)
        else:
            training = replace(training, per_device_train_batch_size=micro // 2)
        found.append(training)
    return found


def _changes(training: TrainingConfig, better: TrainingConfig) -> dict[str, Value]:
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs")
    return {
        f"training.{name}": getattr(better, name)
        for name in names
        if getattr(better, name) != getattr(training, name)
    }


def _instead(training: TrainingConfig, better: TrainingConfig) -> str:
    parts = []
    if batch_size(better) != batch_size(training):
        parts.append(f"lower the batch to {batch_size(better)}")
    if better.num_train_epochs != training.num_train_epochs:
        parts.append(f"train {_epochs(better)}")
    text = " and ".join(parts)
    return text[0].upper() + text[1:]


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count:,} steps"


def _epochs(training: TrainingConfig) -> str:
    count = training.num_train_epochs
    return "1 epoch" if count == 1 else f"{count:g} epochs"
