"""How many steps a run takes, how many of them warm up, and to which learning rate. One formula for each."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from trainer.config.schema import TrainingConfig


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
