"""Trains one run: load, attach, verify, train, save."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftModel
from pyarrow import compute
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from trainer.common import atomic, heartbeat
from trainer.common.devices import Device
from trainer.common.errors import InvalidConfig, UserError
from trainer.common.formatting import size
from trainer.config.schema import RunConfig
from trainer.data.checking import RejectedRow
from trainer.data.general_text import general_text
from trainer.data.preparation import PreparedData, prepare
from trainer.data.sample_prompts import SamplePrompt, sample_prompts
from trainer.models.added_tokens import add_tokens
from trainer.models.base_model import BaseModels
from trainer.models.discovery.discover import discover
from trainer.models.locations import load_config, load_tokenizer
from trainer.planning.performance import PerformanceSettings
from trainer.planning.plan import Plan, make_plan
from trainer.planning.samples import MAX_PROMPT
from trainer.runs import row_losses
from trainer.runs.measured_memory import memory_correction
from trainer.runs.store import RunStore
from trainer.training import adapter, checkpoints, weight_changes
from trainer.training.callbacks import Recorder, Sink, memory_held
from trainer.training.compilation import keep_compiled
from trainer.training.cpu_allocator import keep_freed_memory
from trainer.training.gpu import training_device
from trainer.training.held_out.forgetting import Forgetting
from trainer.training.held_out.sampling import NO_HELD_OUT, NO_PROMPTS, Sampler
from trainer.training.held_out.task_scores import TaskScores, short_answers
from trainer.training.loading import compute_dtype, load_model, resize_vocabulary
from trainer.training.trainer import Outputs, build_trainer

READING_DATA = "Reading the data"
DATA_STAGES = {"checking": "Checking the data", "tokenizing": "Tokenizing the data"}
"""What the stages of `prepare` are called where the run is shown."""


@dataclass(frozen=True)
class RunPaths:
    """Where a run reads and writes."""

    folder: Path
    models_dir: Path
    data_dir: Path


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    finished: bool
    """False if it was stopped before its last step."""
    unchanged: str = ""
    """Why training did not change the adapter, and what to do; empty if it did."""


def train(config: RunConfig, paths: RunPaths, sink: Sink, stop_asked: Callable[[], bool]) -> Outcome:
    """Train one run to its end, or until it is asked to stop.

    Resumes from the newest complete checkpoint, if there is one. Raises UserError for problems that the user can fix;
    any other exception is a bug.
    """
    device = prepare_process(config, paths, sink)
    heartbeat.task("Reading the model's configuration")
    sink("log", text=f"Reading {config.model.name}")
    tokenizer = load_tokenizer(config.model, paths.models_dir)
    module_map = discover(load_config(config.model, paths.models_dir), config.model.name)
    measured = memory_correction(RunStore(paths.folder.parent), device.model)
    planned = partial(make_plan, config, module_map, device, tokenizer.get_vocab(), correction=measured)
    base_files = BaseModels(paths.models_dir).examine(config.model, module_map)
    plan = planned().on(base_files)
    if plan.issues:
        raise InvalidConfig(plan.issues)
    new_tokens = add_tokens(tokenizer, config.model.new_tokens) if config.model.new_tokens else []
    data = read_data(config, tokenizer, paths, sink)
    check_ids(data, max(module_map.vocab_size, len(tokenizer) if new_tokens else 0), config.model.name)
    general = general_text(config.data, tokenizer, config.training.max_length, paths.data_dir)
    newest = checkpoints.newest_complete(paths.folder / "checkpoints")
    plan = _final_plan(planned(data.size).on(base_files), paths.folder / "plan.json", resumes=newest is not None)
    _log(plan, sink)
    if data.skipped:
        record_skipped(data.skipped, paths.folder / "skipped_rows.jsonl")
    heartbeat.task("Loading the weights")
    sink("log", text=f"Loading the weights of {config.model.name}")
    before = memory_held()
    base = load_model(config.model, paths.models_dir, plan, module_map, sink)
    if new_tokens:
        module_map = resize_vocabulary(base, len(tokenizer), module_map)
    heartbeat.task("Attaching the adapter")
    model = adapter.attach(base, plan, config.adapter, module_map, new_tokens)
    save_start(model, config, paths.folder / "start")
    heartbeat.task("Testing attention, packing and loss on the model")
    outputs = Outputs(paths.folder / "checkpoints", sink, partial(_keep_rows, paths.folder / "plan.json"))
    trainer = build_trainer(config, plan.performance, model, tokenizer, data, outputs)
    adapter.prepare(model, plan, compute_dtype(config.model))
    adapter.verify(model, plan, config.adapter, module_map)
    sink("log", text=f"{plan.trainable:,} trainable parameters (matches the plan, verified on the model)")
    trainer.stop_asked = stop_asked
    if data.held_out is not None:
        examples = row_losses.hash_of(data.held_out.keys())
        trainer.keep_losses = partial(row_losses.record, paths.folder, row_losses.HELD_OUT, examples)
    prompts = _sample_prompts(config, data, sink)
    trainer.add_callback(Sampler(trainer, prompts, paths.folder, sink, stop_asked))
    trainer.add_callback(TaskScores(trainer, short_answers(config, data), paths.folder, sink, stop_asked))
    trainer.add_callback(Forgetting(trainer, general, paths.folder, sink))
    trainer.add_callback(Recorder(sink, stop_asked, len(data.train), before))
    start = weight_changes.InitialWeights(model)
    with heartbeat.phase(heartbeat.TRAINING):
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    brings_template = data.template is not None and data.template.hand_over()
    with heartbeat.phase(heartbeat.SAVING):
        save_adapter(model, config, tokenizer if new_tokens or brings_template else None, paths.folder)
    unchanged = "" if start.differs(model) else weight_changes.why_not(trainer.state.log_history)
    return Outcome(bool(trainer.state.global_step >= trainer.state.max_steps), unchanged)


def prepare_process(config: RunConfig, paths: RunPaths, sink: Sink) -> Device:
    """Set up this process for the run. Returns the device that it trains on."""
    keep_freed_memory()
    keep_compiled(paths.folder.parent / "compiled")
    transformers_logging.disable_progress_bar()
    # for names that the newest transformers deprecates and older versions still need
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    set_seed(config.training.seed)
    device = training_device()
    if device.is_gpu:
        sink("log", text=f"Training on {device.model}: {size(device.free)} of {size(device.total)} free")
    return device


def read_data(config: RunConfig, tokenizer: Any, paths: RunPaths, sink: Sink) -> PreparedData:
    """Read, check and tokenize the data."""
    heartbeat.task(READING_DATA)
    sink("log", text="Reading the data")
    limits = config.training.max_length, config.training.seed
    data = prepare(config.data, tokenizer, *limits, paths.data_dir, _show_data_progress)
    for note in data.notes:
        sink("log", text=note)
    return data


def _show_data_progress(stage: str, share: float) -> None:
    heartbeat.task(DATA_STAGES.get(stage, READING_DATA))
    heartbeat.progress(share, 1)


def _log(plan: Plan, sink: Sink) -> None:
    sink("log", text=f"Performance settings: {plan.performance.summary()}")
    if said := plan.correction.sentence():
        sink("log", text=said)
    for warning in plan.warnings:
        sink("log", text=f"{warning.problem} {warning.fix}")


def _sample_prompts(config: RunConfig, data: PreparedData, sink: Sink) -> tuple[SamplePrompt, ...]:
    """The held-out prompts to answer at each evaluation."""
    wanted = config.training.samples
    if not wanted:
        return ()
    found: tuple[SamplePrompt, ...] = ()
    longest = min(config.training.max_length, MAX_PROMPT)
    if data.held_out is not None and data.template is not None:
        found = sample_prompts(data.held_out, data.template, config.data, wanted, longest)
    if not found:
        sink("log", text=NO_PROMPTS if data.held_out is not None else NO_HELD_OUT)
    return found


def check_ids(data: PreparedData, size: int, model: str) -> None:
    """Raise UserError if a token id of the data is outside the model's vocabulary of `size`."""
    parts = [part for part in (data.train, data.eval) if part is not None]
    highest = max(compute.max(compute.list_flatten(part.data.column("input_ids"))).as_py() for part in parts)
    if highest >= size > 0:
        raise UserError(
            f"The tokenizer of {model} produces token id {highest}, but the model has only {size} tokens.",
            "Put the tokenizer that was published with the model into its folder.",
        )


def _final_plan(plan: Plan, path: Path, resumes: bool) -> Plan:
    """The plan to train by, which must match the one the user saw. Raises UserError if the model has changed.

    Performance settings are chosen for the device as it is now and saved; a resumed run keeps those it started with.
    """
    saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if saved is not None:
        _check_unchanged(plan, saved)
        if resumes and "levers" in saved:
            return replace(plan, performance=PerformanceSettings.from_json(saved["levers"]))
    atomic.write_json(path, plan.to_json())
    return plan


def _keep_rows(path: Path, rows: int) -> None:
    """Record in the plan how many rows fit at once, so that a resumed run starts with them."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["levers"]["per_device_train_batch_size"] = rows
    atomic.write_json(path, saved)


def _check_unchanged(plan: Plan, saved: dict[str, Any]) -> None:
    now = json.loads(json.dumps(plan.to_json()))
    if (saved["receipts"], saved["trainable"]) != (now["receipts"], now["trainable"]):
        raise UserError(
            "The model has changed since this run was planned: its modules differ.",
            "Start a new run, and check its plan.",
        )


def record_skipped(rows: Sequence[RejectedRow], path: Path) -> None:
    """Record the rows that the run skips: {"file", "line", "reason"} each."""
    atomic.write(path, "".join(json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in rows))


def save_start(model: PeftModel, config: RunConfig, folder: Path) -> None:
    """Save PiSSA's initial adapter, since it changes the base weights and only the difference is saved at the end."""
    if config.adapter.init_lora_weights == "pissa" and not folder.exists():
        model.peft_config["default"].init_lora_weights = True  # what is saved here must load as it is
        model.save_pretrained(str(folder), save_embedding_layers=False)
        model.peft_config["default"].init_lora_weights = "pissa"


def save_adapter(model: PeftModel, config: RunConfig, tokenizer: Any | None, folder: Path) -> None:
    """Save the adapter as plain PEFT files into `adapter`, replacing that folder atomically."""
    for draft in folder.glob(".adapter-*"):  # left by a worker that was killed just here
        shutil.rmtree(draft, ignore_errors=True)
    keywords = {}
    if config.adapter.init_lora_weights == "pissa":
        keywords["path_initial_model_for_weight_conversion"] = str(folder / "start")
    with atomic.new_folder(folder / "adapter", replace=True) as draft:
        # "auto" would also save whole base embeddings that carry LoRA
        model.save_pretrained(str(draft), save_embedding_layers=False, **keywords)
        atomic.write_json(draft / "run_config.json", config.to_json())
        if tokenizer is not None:
            tokenizer.save_pretrained(str(draft))
