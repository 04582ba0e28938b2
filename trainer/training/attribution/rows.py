"""Losses of some held-out rows and their gradients, computed as the run's own evaluation does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import GradientCheckpointingLayer

from trainer.runs.attribution import MAX_ROWS, MAX_TOKENS, MIN_ROWS
from trainer.training.held_out.forgetting import example_losses

Result = TypeVar("Result")


def chosen(lengths: np.ndarray) -> np.ndarray:
    """Places of the rows to measure: at most MAX_ROWS, evenly spread, of about MAX_TOKENS tokens in all.

    `lengths`: tokens of every held-out row. MIN_ROWS are measured however long they are.
    """
    most = int(np.clip(MAX_TOKENS // max(1.0, lengths.mean()), MIN_ROWS, MAX_ROWS))
    return np.linspace(0, len(lengths) - 1, min(most, len(lengths))).round().astype(int)


def recompute_layers(model: nn.Module) -> None:
    """Recompute each layer in the backward pass: transformers' own checkpointing is off outside of training."""
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)


class Rows:
    """Rows to measure on a trainer's model."""

    def __init__(self, trainer: Any, examples: Sequence[dict[str, np.ndarray]]) -> None:
        """`trainer`: a ModulesTrainer."""
        self.trainer, self.examples = trainer, examples

    def losses(self) -> tuple[np.ndarray, np.ndarray]:
        """The summed loss and the counted tokens of each row."""
        return self._fitting(self._losses)

    def add_gradients(self) -> None:
        """Set the parameters' gradients to those of the summed loss of all rows."""
        self._fitting(self._backward)

    def pieces(self, visit: Callable[[dict[str, torch.Tensor]], None]) -> None:
        """Call `visit` with the tensors of every micro-batch, on the device."""
        trainer, size = self.trainer, self.trainer.args.eval_batch_size
        trainer.model.eval()
        for start in range(0, len(self.examples), size):
            batch = [self.examples[place] for place in range(start, min(start + size, len(self.examples)))]
            inputs = trainer._prepare_inputs(trainer.data_collator(batch))
            for tensors in trainer.steps.split(inputs["micro_batches"]):
                # a context for each: autocast keeps what it has cast, and gates change the weights
                with trainer.accelerator.autocast():
                    visit(tensors)

    def _losses(self) -> tuple[np.ndarray, np.ndarray]:
        with self.trainer.accelerator.autocast():
            return example_losses(self.trainer, self.examples)

    def _backward(self) -> None:
        self.trainer.model.zero_grad()
        self.pieces(self._backward_piece)

    def _backward_piece(self, tensors: dict[str, torch.Tensor]) -> None:
        losses, _, counted = self.trainer.token_losses(self.trainer.model, tensors)
        # a sum, not a mean: small gradients would vanish in float16
        torch.autograd.backward(losses[counted].sum())

    def _fitting(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, with fewer rows at once where memory runs out."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                if self.trainer.steps.rows == 1:
                    raise
            self.trainer.steps.halve()
