"""One optimizer step: forward and backward passes over its micro-batches, in smaller ones where memory runs out.

The loss of a step is a sum over its rows, so it does not depend on how many of them are in memory at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from trainer.common import heartbeat
from trainer.common.formatting import plural
from trainer.training.callbacks import Sink
from trainer.training.collation import Tensors


class Steps:
    """Runs a trainer's steps. Its collator's layout says how many rows a micro-batch has."""

    def __init__(self, trainer: Any, sink: Sink, keep: Callable[[int], None]) -> None:
        """`keep`: called with the number of rows that fit, so that a resumed run starts with it."""
        self._trainer, self._sink, self._keep = trainer, sink, keep

    @property
    def rows(self) -> int:
        return int(self._trainer.data_collator.layout.rows)

    def run(self, model: nn.Module, step: dict[str, Any]) -> torch.Tensor:
        """The step's loss, the mean over its counted tokens; its gradients are added to the parameters'.

        Raises torch.OutOfMemoryError if not even one row fits.
        """
        while True:
            restore = self._remember()
            try:
                return self._accumulate(model, step)
            except torch.OutOfMemoryError:
                if self.rows == 1:
                    raise
            # outside the handler, whose exception holds the tensors of the pass that failed
            restore()
            self.halve()

    def _accumulate(self, model: nn.Module, step: dict[str, Any]) -> torch.Tensor:
        trainer, total = self._trainer, max(1, sum(step["counted"]))
        parts = list(self.split(step["micro_batches"]))
        trainer.current_gradient_accumulation_steps = len(parts)
        losses = []
        for tensors in parts:
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, dict(tensors), num_items_in_batch=total)
            trainer.accelerator.backward(loss)
            heartbeat.beat()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def split(self, micro_batches: list[Tensors]) -> Iterator[Tensors]:
        """These micro-batches with at most `rows` rows each: those prefetched before it shrank have more."""
        for tensors in micro_batches:
            for start in range(0, len(tensors["input_ids"]), self.rows):
                yield {name: values[start : start + self.rows] for name, values in tensors.items()}

    def _remember(self) -> Callable[[], None]:
        """What restores the state from before the step: random numbers, sums of the metrics, no gradients."""
        trainer, on_gpu = self._trainer, torch.cuda.is_available()
        cpu, gpu = torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpu else None
        sums = trainer.sums

        def restore() -> None:
            torch.set_rng_state(cpu)
            if gpu is not None:
                torch.cuda.set_rng_state(gpu)
            trainer.sums = sums
            trainer.model.zero_grad()

        return restore

    def halve(self) -> None:
        """Half as many rows at once from now on, after memory ran out."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        collator = self._trainer.data_collator
        layout = collator.layout
        collator.layout = replace(layout, rows=-(-layout.rows // 2))
        self._keep(self.rows)
        self._sink(
            "log",
            text=f"Out of memory with {plural(layout.rows, 'row')} at once: continuing with {self.rows}. "
            "Losses stay the same, since a step's loss is a sum over its rows.",
        )

    def try_largest(self) -> None:
        """Run the largest micro-batch of the run, so that what does not fit fails now, and not at a random step.

        Twice where gradients accumulate, and with memory held for the optimizer's states, which exist from the first
        step on. Evaluation needs less: it computes micro-batches of the same size without gradients.
        """
        trainer, restore = self._trainer, self._remember()
        largest = trainer._prepare_inputs(dict(trainer.data_collator.largest([trainer.train_dataset[0]])))
        states = [torch.empty_like(weight) for weight in _states(trainer)]
        times = 2 if trainer.args.train_batch_size > self.rows else 1
        trainer.model.train()
        step = {"micro_batches": [largest] * times, "counted": [largest["labels"].numel()] * times}
        self.run(trainer.model_wrapped, step)
        restore()
        del states


def _states(trainer: Any) -> Iterator[torch.Tensor]:
    """Stand-ins for AdamW's two moments, unless they exist already or bitsandbytes pages them out."""
    if trainer.optimizer.state or "paged" in str(trainer.args.optim):
        return
    for group in trainer.optimizer.param_groups:
        for weight in group["params"]:
            yield weight
            yield weight


class LargestFirst(TrainerCallback):  # type: ignore[misc]
    """Tries the largest micro-batch when training starts, on a GPU: a machine's memory can be swapped out."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            heartbeat.task("Trying the largest micro-batch")
            self._steps.try_largest()
