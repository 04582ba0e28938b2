"""Measures the loss on general text before the first step and after the last: what a run forgets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from trainer.common import heartbeat
from trainer.data.general_text import GeneralText
from trainer.runs import row_losses
from trainer.training.callbacks import Sink
from trainer.training.held_out.guard import problem_of


class Forgetting(TrainerCallback):  # type: ignore[misc]
    """Writes the losses to the run's row_losses.json. A failure is logged and ends only this."""

    def __init__(self, trainer: Any, text: GeneralText, folder: Path, sink: Sink) -> None:
        """`trainer`: a ModulesTrainer."""
        self._trainer, self._examples, self._folder, self._sink = trainer, text.examples, folder, sink
        self._record = partial(row_losses.record, folder, row_losses.GENERAL, row_losses.hash_of(text.keys))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self._measure(0)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step < state.max_steps:  # it was stopped, and ends as soon as it can
            return
        self._measure(state.global_step)
        found = row_losses.read(self._folder).get(row_losses.GENERAL)
        if found is not None and found.rise is not None:
            self._sink("log", text=f"Loss on general text: {found.sentence}")

    def _measure(self, step: int) -> None:
        if problem := problem_of(lambda: self._score(step)):
            self._sink("log", text=f"The loss on general text is not known: {problem}")

    def _score(self, step: int) -> None:
        with heartbeat.phase(heartbeat.EVALUATING):
            self._record(step, *example_losses(self._trainer, self._examples))


def example_losses(trainer: Any, examples: Sequence[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Each example's summed loss and counted tokens, without changing what the trainer learns."""
    model, size = trainer.model, trainer.args.eval_batch_size
    was_training, found = model.training, []
    model.eval()
    try:
        for start in range(0, len(examples), size):
            batch = [examples[place] for place in range(start, min(start + size, len(examples)))]
            found.append(trainer.score(model, trainer.data_collator(batch)))
    finally:
        model.train(was_training)
    losses, _, tokens = torch.cat(found, dim=1).cpu().numpy()
    return losses, tokens
