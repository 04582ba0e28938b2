"""Regional compilation: compiles each kind of repeated layer once, if that works and gives the same loss."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.integrations.liger import apply_liger_kernel
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer.planning.performance import liger_kernels
from trainer.training.callbacks import Sink
from trainer.training.collation import IGNORED

BACKEND = "inductor"
RECOMPILE_LIMIT = 64
"""Variants of a layer's code: kinds of layers, and training and evaluation, times the widths of batches."""
TOLERANCE = 0.02
"""Relative difference of two losses that bfloat16 and different dropout explain."""
CACHE_LIMIT = 4 * 2**30
"""Bytes of compiled kernels above which they are dropped."""


def keep_compiled(folder: Path) -> None:
    """Let Inductor keep what it compiles in `folder`, so that later runs with the same shapes start at once."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    if size > CACHE_LIMIT:
        shutil.rmtree(folder, ignore_errors=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


class Compiler(TrainerCallback):  # type: ignore[misc]
    """Compiles the layers in place when training starts, after everything else that changes them.

    Runs the first batch forward and backward, eager and compiled; if that fails, nothing is compiled, and Liger's
    kernels are applied if there are any. Later shapes that cannot be compiled run eagerly.
    """

    def __init__(self, trainer: Trainer, sink: Sink) -> None:
        self._trainer, self._sink = trainer, sink

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        found = self._trainer.model.named_modules()
        layers = {name: module for name, module in found if isinstance(module, GradientCheckpointingLayer)}
        problem = self._try(layers) if layers else "this model has no repeated layers"
        if problem:
            for layer in layers.values():
                layer._compiled_call_impl = None  # torch has no public way to undo `Module.compile()`
            self._sink("log", text=f"Layers are not compiled: {problem}")
            self._apply_liger()
        torch._dynamo.config.suppress_errors = True

    def _try(self, layers: dict[str, Any]) -> str:
        """Compile the layers; returns what is wrong, or an empty string."""
        model = self._trainer.model
        trained = [name for name, layer in layers.items() if any(p.requires_grad for p in layer.parameters())]
        if trained and trained[0].endswith(".0"):
            model.get_input_embeddings().register_forward_hook(_like_a_layers_output)
        model.register_forward_pre_hook(_free_number_of_examples, with_kwargs=True)
        try:
            plain = self._loss()
            for layer in layers.values():
                layer.compile(backend=BACKEND, dynamic=False if on_gpu() else None)
            compiled = self._loss()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler may raise
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        differ = abs(plain - compiled) > TOLERANCE * max(abs(plain), 1e-3)
        return f"the loss would be {compiled:.4f} instead of {plain:.4f}" if differ else ""

    def _apply_liger(self) -> None:
        """Use Liger's kernels instead, as an uncompiled run would."""
        trainer = self._trainer
        wanted = trainer.config.training.use_liger_kernel != "off" and on_gpu()
        if wanted and liger_kernels(trainer.model.config.model_type):
            apply_liger_kernel(trainer.model, trainer.args.liger_kernel_config)
            self._sink("log", text="Liger kernels are used instead")

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


def on_gpu() -> bool:
    """Whether batches have one shape, or a few: on a CPU, rows are only as long as what they hold."""
    return torch.cuda.is_available()


def _like_a_layers_output(_embedding: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    """Let the first layer get what the others get, or it would have a graph of its own."""
    return output.requires_grad_() if torch.is_grad_enabled() else output.detach()


def _free_number_of_examples(_model: Any, _args: Any, inputs: dict[str, Any]) -> None:
    """Mark the one size that differs between batches of one shape: how many examples their rows hold."""
    if (bounds := inputs.get("example_bounds")) is not None:
        torch._dynamo.maybe_mark_dynamic(bounds, 1)
