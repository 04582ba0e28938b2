"""The schedule of a run: batch, steps, warmup, evaluations, checkpoints, peak learning rates.

Each has one formula, used by everything that shows, plans or trains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from trainer.config.schema import TrainingConfig

EVALS, CHECKPOINTS = 10, 5
"""Maximum number of each in a run whose configuration does not set an interval."""
EVAL_SHARE = 0.1
"""Maximum share of the training time for evaluations; above it, there are fewer than EVALS."""


@dataclass(frozen=True)
class Size:
    """The size of the training data."""

    examples: int
    """Training examples, without the held-out ones."""
    length: float
    """Mean tokens per example, each at most max_length; 0 if unknown."""
    longest: int = 0
    """Tokens of the longest one, held-out ones included; 0 if unknown."""


UNREAD = Size(0, 0.0)
"""The size of data that has not been read."""


def batch_size(training: TrainingConfig) -> int:
    """Examples per optimizer step, whatever micro-batch size is chosen for speed."""
    return training.per_device_train_batch_size * training.gradient_accumulation_steps


def steps_per_epoch(training: TrainingConfig, examples: int) -> int:
    """Steps per epoch; the last one may have fewer examples."""
    return ceil(examples / batch_size(training))


def total_steps(training: TrainingConfig, examples: int) -> int:
    """Steps of a run, as `Trainer.set_initial_training_values` counts them; 0 if `examples` is 0."""
    if training.max_steps > 0:
        return training.max_steps
    return ceil(training.num_train_epochs * steps_per_epoch(training, examples))


def eval_steps(training: TrainingConfig, examples: int, held_out: int) -> int:
    """Steps between evaluations: at most EVALS over the run, at least one.

    A forward pass takes a third of the time of a training step on the same example.
    """
    if training.eval_steps:
        return training.eval_steps
    steps = total_steps(training, examples)
    affordable = int(3 * EVAL_SHARE * examples_seen(training, steps, examples) / max(held_out, 1))
    return max(1, ceil(steps / max(1, min(EVALS, affordable))))


def save_steps(training: TrainingConfig, examples: int) -> int:
    """Steps between checkpoints: at most CHECKPOINTS over the run, at least one."""
    return training.save_steps or max(1, ceil(total_steps(training, examples) / CHECKPOINTS))


def extended(training: TrainingConfig, epochs: float, examples: int) -> TrainingConfig:
    """The same settings for `epochs` more epochs, converted to steps if `max_steps` ends the run."""
    if training.max_steps <= 0:
        return replace(training, num_train_epochs=training.num_train_epochs + epochs)
    more = max(1, ceil(epochs * steps_per_epoch(training, examples)))
    return replace(training, max_steps=training.max_steps + more)


def total_tokens(training: TrainingConfig, size: Size) -> int:
    """Tokens that a run trains on, including repeats, without padding."""
    return round(examples_seen(training, total_steps(training, size.examples), size.examples) * size.length)


def examples_seen(training: TrainingConfig, steps: int, examples: int) -> float:
    """Examples in the first `steps` steps, including repeats; full batches if `examples` is 0 (unknown)."""
    return examples * steps / steps_per_epoch(training, examples) if examples else steps * batch_size(training)


def peak_rate(training: TrainingConfig, treatment: str) -> float:
    """The shared peak learning rate of a treatment: of LoRA and new tokens' rows, or of `full` training."""
    if treatment != "full":
        return training.learning_rate
    return training.full_learning_rate or training.learning_rate / 10


def warmup_steps(training: TrainingConfig, steps: int) -> int:
    """Warmup steps, in which the learning rate rises from 0: as in transformers, except in very short runs.

    transformers rounds up, so every warmup has at least one step, and its first step has learning rate 0: a run of
    one step would train nothing. Here, less than one step means no warmup, and the last step is never part of it.
    """
    share = steps * training.warmup_ratio
    return min(ceil(share), steps - 1) if share >= 1 else 0
