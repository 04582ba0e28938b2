"""Builds the trainer of a run: its arguments, its loss, its batches, and what is measured on the model before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import PeftModel
from transformers import PrinterCallback
from trl import SFTConfig

from trainer.common.formatting import percent
from trainer.config.schema import RunConfig
from trainer.data import packing
from trainer.data.packing import Layout
from trainer.data.preparation import PreparedData
from trainer.planning import schedule
from trainer.planning.performance import PerformanceSettings
from trainer.planning.row_width import row_limit
from trainer.training.callbacks import Sink
from trainer.training.collation import Collator, GroupedSampler
from trainer.training.compilation import Compiler
from trainer.training.loading import compute_dtype
from trainer.training.modules_trainer import ModulesSFTTrainer, ModulesTrainer
from trainer.training.preflight import choose_attention, fused_loss_is_right, head_is_plain, packing_is_exact
from trainer.training.steps import LargestFirst, Steps


class Outputs(NamedTuple):
    """Where a training writes."""

    checkpoints: Path
    """Folder of its checkpoints."""
    sink: Sink
    """Receives its events."""
    keep_rows: Callable[[int], None] = lambda _: None
    """Called with the number of rows per micro-batch that fits, where fewer fit than planned."""


def build_trainer(
    config: RunConfig,
    performance: PerformanceSettings,
    model: PeftModel,
    tokenizer: Any,
    data: PreparedData,
    outputs: Outputs,
) -> ModulesTrainer:
    """The trainer without its callbacks. Whether it uses the fused loss and packing is measured on the model."""
    held_out = len(data.eval) if data.eval is not None else 0
    arguments = _arguments(config, performance, outputs.checkpoints, len(data.train), held_out)
    sink, collator = outputs.sink, Collator(_layout(config, performance, data))
    parts = {
        "model": model,
        "args": arguments,
        "train_dataset": data.train,
        "eval_dataset": data.eval,
        "processing_class": tokenizer,
        "data_collator": collator,
    }
    trainer: ModulesTrainer | None = ModulesSFTTrainer(**parts) if head_is_plain(model) else None
    if trainer is None or not fused_loss_is_right(trainer, model):
        trainer = ModulesTrainer(**parts)
        sink(
            "log",
            text="The fused loss does not work for this model: full logits take more memory per token",
        )
    trainer.remove_callback(PrinterCallback)
    trainer.config = config
    trainer.steps = Steps(trainer, sink, outputs.keep_rows)
    trainer.add_callback(LargestFirst(trainer.steps))
    trainer.args.use_liger_kernel = performance.use_liger_kernel  # read when training starts; TRL would warn about it
    trainer.args.liger_kernel_config = _liger(model)
    collator.attention = choose_attention(
        model, performance.attn_implementation, config.training.max_length, trainer.accelerator.autocast, sink
    )
    if performance.torch_compile:
        trainer.add_callback(Compiler(trainer, sink))
    _choose_batching(trainer, config, data.lengths, sink)
    return trainer


def _layout(config: RunConfig, performance: PerformanceSettings, data: PreparedData) -> Layout:
    """Micro-batches of unpacked rows; on a GPU, of few shapes."""
    on_gpu = torch.cuda.is_available()
    most = row_limit(config.training, on_gpu, data.size)
    return Layout(performance.per_device_train_batch_size, most, fixed=on_gpu)


def _choose_batching(trainer: ModulesTrainer, config: RunConfig, lengths: np.ndarray, sink: Sink) -> None:
    """Choose packing or grouping by length, and log it."""
    training, way, collator = config.training, config.training.packing, trainer.data_collator
    batch, layout = schedule.batch_size(training), collator.layout
    filled = packing.fill(lengths, batch, layout, training.seed)
    if way == "bfd" or (way == "auto" and packing.is_worthwhile(filled, layout.fixed)):
        if packing_is_exact(trainer.model, trainer.accelerator.autocast):
            collator.layout, way = replace(layout, packed=True), "bfd"
        else:
            way = "group_by_length"
            sink("log", text="This model cannot isolate packed examples: they are grouped by length instead")
    if way == "group_by_length":
        trainer.grouped = GroupedSampler(lengths, batch, training.seed)
    if way in ("bfd", "group_by_length"):
        useful, otherwise = (percent(filled[key]) for key in (way, "off"))
        how = f"packed into {_rows(collator.layout)}" if way == "bfd" else "grouped by length"
        sink("log", text=f"Batches are {how}: {useful} useful tokens ({otherwise} otherwise)")


def _rows(layout: Layout) -> str:
    """The shape of packed micro-batches."""
    most, upto = ("", "") if layout.fixed else ("at most ", "up to ")
    return f"rows of {most}{layout.width(layout.max_length):,} tokens, {upto}{layout.rows} at a time"


def _liger(model: PeftModel) -> dict[str, bool]:
    """Liger's kernels without its losses, which would replace TRL's fused one, or partial rotary embeddings."""
    text = model.config.get_text_config(decoder=True)
    whole = (getattr(text, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0) == 1.0
    return {"rope": whole, "cross_entropy": False, "fused_linear_cross_entropy": False}


def _arguments(
    config: RunConfig, performance: PerformanceSettings, folder: Path, examples: int, held_out: int
) -> SFTConfig:
    training = config.training
    on_gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=training.num_train_epochs,
        max_steps=training.max_steps if training.max_steps > 0 else -1,  # transformers treats 0 as a number of steps
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=schedule.warmup_steps(training, schedule.total_steps(training, examples)),
        # a batch holds all examples of a step: `steps.py` makes micro-batches of them
        per_device_train_batch_size=schedule.batch_size(training),
        per_device_eval_batch_size=schedule.batch_size(training),
        max_length=training.max_length,
        optim=performance.optim,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=performance.every_n_layers > 0,
        gradient_checkpointing_kwargs=(
            {"use_reentrant": False, "every_n_layers": performance.every_n_layers}
            if performance.every_n_layers
            else None
        ),
        eval_strategy="steps" if held_out else "no",
        eval_steps=schedule.eval_steps(training, examples, held_out),
        eval_on_start=held_out > 0,
        save_steps=schedule.save_steps(training, examples),
        logging_steps=1,
        logging_nan_inf_filter=False,  # else a NaN loss is logged as 0
        seed=training.seed,
        use_cpu=not on_gpu,
        bf16=compute_dtype(config.model) == torch.bfloat16,
        fp16=compute_dtype(config.model) == torch.float16,  # with loss scaling
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        include_num_input_tokens_seen="no",  # counted here, packed or not
    )
