"""Opens a run that has ended: its base model as it held it, its adapter with gates, its held-out rows."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.common.errors import InvalidConfig, UserError
from trainer.common.progress import Progress
from trainer.config.schema import RunConfig
from trainer.data.general_text import GeneralText, general_text
from trainer.data.preparation import PreparedData, prepare
from trainer.models.added_tokens import add_tokens
from trainer.models.base_model import BaseModels
from trainer.models.discovery.discover import discover
from trainer.models.locations import load_config, load_tokenizer
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import Plan, make_plan
from trainer.training import adapter
from trainer.training.attribution import saved_adapter
from trainer.training.attribution.gates import Gate, gates, starts
from trainer.training.attribution.rows import Rows, chosen, recompute_layers
from trainer.training.loading import compute_dtype, load_model, resize_vocabulary
from trainer.training.loop import RunPaths, prepare_process
from trainer.training.trainer import Outputs, build_trainer

NO_ROWS = "This run holds no examples out, so there is no loss to attribute."


@dataclass(frozen=True)
class TrainedRun:
    """A run's model with its adapter, ready to be measured."""

    trainer: Any
    """A ModulesTrainer, which takes no steps."""
    gates: list[Gate]
    rows: Rows
    held_out: int
    """Held-out rows of the run, of which `rows` has some."""
    general: GeneralText
    device: str


def open_run(config: RunConfig, paths: RunPaths, progress: Progress) -> TrainedRun:
    """Open a run. Raises UserError if it has no adapter or no held-out rows, or its model or data have changed.

    `progress`: told the stages of opening; loading the weights takes most of the time.
    """
    device = prepare_process(config, paths, _ignore)
    progress("Reading the data", 0)
    tokenizer = load_tokenizer(config.model, paths.models_dir)
    module_map = discover(load_config(config.model, paths.models_dir), config.model.name)
    vocabulary = tokenizer.get_vocab()
    new_tokens = add_tokens(tokenizer, config.model.new_tokens) if config.model.new_tokens else []
    data = prepare(config.data, tokenizer, config.training.max_length, config.training.seed, paths.data_dir, progress)
    if data.eval is None:
        raise UserError(NO_ROWS, "Train again with data.eval_fraction above 0.", "data")
    plan = make_plan(config, module_map, device, vocabulary, data.size)
    plan = plan.on(BaseModels(paths.models_dir).examine(config.model, module_map))
    if plan.issues:
        raise InvalidConfig(plan.issues)
    progress("Loading the weights", 0)
    base = load_model(config.model, paths.models_dir, plan, module_map, _ignore)
    if new_tokens:
        module_map = resize_vocabulary(base, len(tokenizer), module_map)
    model = saved_adapter.attach(base, paths.folder / "adapter", plan, module_map)
    trainer = _trainer(config, plan, model, tokenizer, data)
    if trainer.args.gradient_checkpointing:
        recompute_layers(model)
    found = _gates(model, config, plan, module_map, paths.folder / "adapter")
    lengths = np.minimum(np.asarray(data.eval["length"]), config.training.max_length)
    general = general_text(config.data, tokenizer, config.training.max_length, paths.data_dir)
    rows = Rows(trainer, data.eval.select(chosen(lengths)))
    return TrainedRun(trainer, found, rows, len(data.eval), general, device.model or device.name)


def _trainer(config: RunConfig, plan: Plan, model: Any, tokenizer: Any, data: PreparedData) -> Any:
    """The run's trainer, whose loss, attention and batches are those of its evaluations."""
    with tempfile.TemporaryDirectory() as folder:  # transformers makes it, and nothing is written there
        return build_trainer(config, plan.performance, model, tokenizer, data, Outputs(Path(folder), _ignore))


def _gates(model: Any, config: RunConfig, plan: Plan, module_map: ModuleMap, folder: Path) -> list[Gate]:
    """The gates of all that was trained, after the learned weights are loaded."""
    adapter.prepare(model, plan, compute_dtype(config.model))
    start = starts(model)
    saved_adapter.load(model, folder)
    return gates(model, plan, module_map, start)


def _ignore(_type: str, **_: Any) -> None:
    """The run's log has ended."""
