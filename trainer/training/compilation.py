"""Regional compilation: compiles each of a model's repeated layers, if that works and gives the same loss."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer.training.callbacks import Sink
from trainer.training.collation import IGNORED

BACKEND = "inductor"
SHAPES = 64
"""Recompilation limit for a layer's code: layer variants, one row or several, evaluation."""
TOLERANCE = 0.02
"""Relative difference of two losses that bfloat16 and different dropout explain."""


class Compiler(TrainerCallback):  # type: ignore[misc]
    """Compiles the layers in place when training starts, after everything else that changes them.

    Runs the first batch forward and backward, eager and compiled; if that fails, nothing is compiled. Later shapes
    that cannot be compiled run eagerly.
    """

    def __init__(self, trainer: Trainer, sink: Sink) -> None:
        self._trainer, self._sink = trainer, sink

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        torch._dynamo.config.recompile_limit = SHAPES
        model = self._trainer.model
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        problem = self._try(layers) if layers else "this model has no repeated layers"
        if problem:
            for layer in layers:
                layer._compiled_call_impl = None  # torch has no public way to undo `Module.compile()`
            self._sink("log", text=f"Layers are not compiled: {problem}")
        torch._dynamo.config.suppress_errors = True

    def _try(self, layers: list[Any]) -> str:
        """Compile the layers; returns what is wrong, or an empty string."""
        try:
            plain = self._loss()
            for layer in layers:
                layer.compile(backend=BACKEND)
            compiled = self._loss()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler may raise
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        differ = abs(plain - compiled) > TOLERANCE * max(abs(plain), 1e-3)
        return f"the loss would be {compiled:.4f} instead of {plain:.4f}" if differ else ""

    def _loss(self) -> float:
        """The loss of the largest micro-batch; also runs a backward pass, and restores all state afterwards."""
        trainer = self._trainer
        batch = trainer.data_collator.largest([trainer.train_dataset[0]])
        sums, count = trainer.sums, int((batch["labels"] != IGNORED).sum())
        trainer.model.train()
        with torch.random.fork_rng():
            inputs = trainer._prepare_inputs(batch)
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(trainer.model_wrapped, inputs, num_items_in_batch=count)
            trainer.accelerator.backward(loss)
        trainer.model.zero_grad()
        trainer.sums = sums
        return float(loss.detach())
