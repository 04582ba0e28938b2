"""The bench of a race: one loaded base model, on which each arm trains a whole short schedule and is scored.

Everything after the arms' own weights is the project's own training: `attach`, `prepare` and `verify`, the trainer of
every run, its schedule. Every arm gets the same rows in the same order.
"""

from __future__ import annotations

import gc
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from trainer.common.errors import UserError
from trainer.config.schema import RunConfig
from trainer.data.preparation import PreparedData
from trainer.experiments.race.race import Stopped
from trainer.experiments.race.records import Trained
from trainer.experiments.scenario_plans import Planner
from trainer.models.module_map import ModuleMap
from trainer.training import adapter
from trainer.training.base_state import BaseState
from trainer.training.held_out.forgetting import example_losses
from trainer.training.loading import compute_dtype
from trainer.training.step_clock import StepClock
from trainer.training.trainer import Outputs, build_trainer


@dataclass(frozen=True)
class Bench:
    """A base model and its data."""

    base: Any
    module_map: ModuleMap
    tokenizer: Any
    new_tokens: list[int]
    data: PreparedData
    plan: Planner
    stop_asked: Callable[[], bool]

    def train(self, config: RunConfig, rows: int) -> Trained:
        """Train `config` on the base and score it on `rows` held-out rows; the base is then as it was.

        Raises Stopped if a stop is asked meanwhile, and UserError if this selection cannot train.
        """
        began = time.monotonic()
        state = BaseState(self.base)
        try:
            with tempfile.TemporaryDirectory() as folder:
                trained = self._train(config, rows, state, Path(folder))
        except torch.OutOfMemoryError:
            trained = None
        finally:
            state.restore()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if trained is None:
            raise UserError("It does not fit in memory.", "Shorten max_length, or train fewer modules.", "oom")
        busy = trained.step_seconds * config.training.max_steps + trained.row_seconds * rows
        return replace(trained, setup_seconds=max(0.0, time.monotonic() - began - busy))

    def _train(self, config: RunConfig, rows: int, state: BaseState, folder: Path) -> Trained:
        plan, clock = self.plan(config), StepClock(self.stop_asked)
        if plan.issues:
            raise UserError(plan.issues[0].problem, plan.issues[0].fix)
        set_seed(config.training.seed)
        model = adapter.attach(self.base, plan, config.adapter, self.module_map, self.new_tokens)
        state.keep_trained()
        data = replace(self.data, eval=None, held_out=None)
        trainer = build_trainer(config, plan.performance, model, self.tokenizer, data, Outputs(folder, _silent))
        adapter.prepare(model, plan, compute_dtype(config.model))
        adapter.verify(model, plan, config.adapter, self.module_map)
        trainer.args.save_strategy = "no"
        trainer.add_callback(clock)
        trainer.train()
        if clock.stopped:
            raise Stopped
        began = time.monotonic()
        losses, tokens = example_losses(trainer, held_out_rows(self.data, rows))
        if clock.diverged:
            losses = np.full_like(losses, math.inf)
        return Trained(losses, tokens, clock.step_seconds, (time.monotonic() - began) / max(rows, 1))


def held_out_rows(data: PreparedData, count: int) -> list[dict[str, np.ndarray]]:
    """`count` of the held-out examples, evenly spread over them; always the same ones."""
    assert data.eval is not None
    places = np.linspace(0, len(data.eval) - 1, count).round().astype(int)
    return [data.eval[int(place)] for place in places]


def _silent(*_: Any, **__: Any) -> None:
    """What the trainers of the arms log is not shown."""
