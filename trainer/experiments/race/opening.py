"""Opens a race: reads model and data, makes the arms, loads and quantizes the base model once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from trainer.common.errors import InvalidConfig, UserError
from trainer.config.schema import RunConfig, TrainingConfig
from trainer.data.preparation import PreparedData
from trainer.experiments.race.arms import make_arms
from trainer.experiments.race.bench import Bench
from trainer.experiments.race.halving import Shape
from trainer.experiments.scenario_plans import Planner, ScenarioPlan
from trainer.models.added_tokens import add_tokens, with_vocabulary_size
from trainer.models.base_model import BaseModels
from trainer.models.discovery.discover import discover
from trainer.models.locations import load_config, load_tokenizer
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import make_plan
from trainer.planning.scenarios import Scenario
from trainer.planning.schedule import batch_size, total_steps
from trainer.runs.measured_memory import memory_correction
from trainer.runs.store import RunStore
from trainer.training.callbacks import Sink
from trainer.training.loading import load_model
from trainer.training.loop import RunPaths, check_ids, prepare_process, read_data

RACE_BATCH = 8
"""Rows per step, at most: of the same rows, more and smaller steps tell more."""
LEAST_HELD_OUT = 8
"""Held-out rows without which nothing can be said."""


@dataclass(frozen=True)
class Opened:
    """What a race runs on."""

    bench: Bench
    arms: tuple[ScenarioPlan, ...]
    shape: Shape
    run_steps: int
    """Steps of the run that is to come."""


def open_race(
    config: RunConfig, paths: RunPaths, own: Sequence[Scenario], sink: Sink, stop_asked: Callable[[], bool]
) -> Opened:
    """Everything up to the first run. `own`: the user's presets. Raises UserError."""
    device = prepare_process(config, paths, sink)
    tokenizer = load_tokenizer(config.model, paths.models_dir)
    module_map = discover(load_config(config.model, paths.models_dir), config.model.name)
    correction = memory_correction(RunStore(paths.folder.parent), device.model)
    plan = partial(make_plan, module_map=module_map, device=device, correction=correction)
    plan = partial(plan, vocabulary=tokenizer.get_vocab())
    base_files = BaseModels(paths.models_dir).examine(config.model, module_map)
    if base_files.issues:
        raise InvalidConfig(base_files.issues)
    new_tokens = add_tokens(tokenizer, config.model.new_tokens) if config.model.new_tokens else []
    data = read_data(config, tokenizer, paths, sink)
    check_ids(data, max(module_map.vocab_size, len(tokenizer) if new_tokens else 0), config.model.name)
    shape, run_steps = _shape(config, data)
    planned: Planner = partial(plan, data=data.size)
    arms = make_arms(replace(config, training=short_training(config.training)), module_map, planned, own)
    sink("log", text=f"Loading the weights of {config.model.name}")
    base = _load(config, paths, arms, module_map, sink)
    if new_tokens and len(tokenizer) > module_map.vocab_size:
        base.resize_token_embeddings(len(tokenizer), mean_resizing=True)
        module_map = with_vocabulary_size(module_map, len(tokenizer))
    bench = Bench(base, module_map, tokenizer, new_tokens, data, planned, stop_asked)
    return Opened(bench, arms, shape, run_steps)


def short_training(training: TrainingConfig) -> TrainingConfig:
    """The settings of all runs of a race: batches of at most RACE_BATCH, and nothing is compiled."""
    rows = min(training.per_device_train_batch_size, RACE_BATCH)
    accumulation = min(training.gradient_accumulation_steps, max(1, RACE_BATCH // rows))
    return replace(
        training,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=accumulation,
        torch_compile="off",
        samples=0,
    )


def _shape(config: RunConfig, data: PreparedData) -> tuple[Shape, int]:
    """Also the steps of the run that is to come. Raises UserError if too little is held out."""
    held_out = len(data.eval) if data.eval is not None else 0
    if held_out < LEAST_HELD_OUT:
        raise UserError(
            f"Selections are compared on held-out examples, and only {held_out} are held out.",
            f"Raise data.eval_fraction, or name a file as data.held_out: at least {LEAST_HELD_OUT} are needed.",
            "data",
        )
    batch = batch_size(short_training(config.training))
    steps = total_steps(config.training, len(data.train))
    return Shape(batch, max(1, steps * batch_size(config.training) // batch), held_out), steps


def _load(config: RunConfig, paths: RunPaths, arms: Sequence[ScenarioPlan], module_map: ModuleMap, sink: Sink) -> Any:
    """One base for all arms: what any of them trains in full is not quantized in it."""
    able = [arm for arm in arms if arm.runs]
    if not able:
        raise UserError("No selection can be trained on this model.", "Run `plan` to see what is wrong.")
    targets = tuple({target: None for arm in able for target in arm.plan.targets})
    return load_model(config.model, paths.models_dir, replace(able[0].plan, targets=targets), module_map, sink)
