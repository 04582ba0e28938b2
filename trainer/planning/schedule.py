"""The one formula for each number of a run's schedule: batch, steps, warmup, evaluations, checkpoints, peak learning
rate. Everything that shows, plans or trains takes them from here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from trainer.config.schema import TrainingConfig

EVALS, CHECKPOINTS = 10, 5
"""At most so many of each in a run whose configuration does not say how often."""
EVAL_SHARE = 0.1
"""Evaluations are fewer than EVALS where they would take a larger share of the training time than this."""


@dataclass(frozen=True)
class Size:
    """How much there is to train on."""

    examples: int
    """Training examples, without the held-out ones."""
    length: float
    """Tokens of an example on average, at most max_length each; 0 where unknown."""


def batch_size(training: TrainingConfig) -> int:
    """Examples per step. Micro-batches picked for speed are of another size; their product stays."""
    return training.per_device_train_batch_size * training.gradient_accumulation_steps


def steps_per_epoch(training: TrainingConfig, examples: int) -> int:
    """Steps over all examples once; the last one may see fewer than a batch."""
    return ceil(examples / batch_size(training))


def total_steps(training: TrainingConfig, examples: int) -> int:
    """Steps of a run, as `Trainer.set_initial_training_values` counts them; 0 where `examples` is."""
    if training.max_steps > 0:
        return training.max_steps
    return ceil(training.num_train_epochs * steps_per_epoch(training, examples))


def eval_steps(training: TrainingConfig, examples: int, held_out: int) -> int:
    """Steps between evaluations: at most EVALS of them over the run, and at least one. A forward pass over an example
    takes a third of what training on it takes."""
    if training.eval_steps:
        return training.eval_steps
    steps = total_steps(training, examples)
    affordable = int(3 * EVAL_SHARE * examples_seen(training, steps, examples) / max(held_out, 1))
    return max(1, ceil(steps / max(1, min(EVALS, affordable))))


def save_steps(training: TrainingConfig, examples: int) -> int:
    """Steps between checkpoints: at most CHECKPOINTS of them over the run, and at least one."""
    return training.save_steps or max(1, ceil(total_steps(training, examples) / CHECKPOINTS))


def extended(training: TrainingConfig, epochs: float, examples: int) -> TrainingConfig:
    """The same for `epochs` more epochs, counted in steps where `max_steps` ends the run."""
    if training.max_steps <= 0:
        return replace(training, num_train_epochs=training.num_train_epochs + epochs)
    more = max(1, ceil(epochs * steps_per_epoch(training, examples)))
    return replace(training, max_steps=training.max_steps + more)


def total_tokens(training: TrainingConfig, size: Size) -> int:
    """Tokens that a run trains on, repeats included, padding not."""
    return round(examples_seen(training, total_steps(training, size.examples), size.examples) * size.length)


def examples_seen(training: TrainingConfig, steps: int, examples: int) -> float:
    """How many examples the first `steps` steps train on, repeats included; all batches count as full where
    `examples` is 0, that is unknown."""
    return examples * steps / steps_per_epoch(training, examples) if examples else steps * batch_size(training)


def peak_rate(training: TrainingConfig, treatment: str) -> float:
    """Learning rate after warmup of what has none of its own: LoRA and rows of new tokens, or modules in `full`."""
    if treatment != "full":
        return training.learning_rate
    return training.full_learning_rate or training.learning_rate / 10


def warmup_steps(training: TrainingConfig, steps: int) -> int:
    """Steps in which the learning rate rises from 0: as many as transformers takes, in all but very short runs.

    transformers rounds up, so every warmup has at least one step, and the first step of a warmup has learning rate 0:
    a run of one step would train nothing. Here a share that comes to less than one step is no warmup, and at
    least the last step is not part of it.
    """
    share = steps * training.warmup_ratio
    return min(ceil(share), steps - 1) if share >= 1 else 0
