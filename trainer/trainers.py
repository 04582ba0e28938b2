"""The trainer of a run: TRL's SFTTrainer, or transformers' own where TRL's fused loss does not fit the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from transformers import PrinterCallback, Trainer
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trainer.config import RunConfig
from trainer.data import Prepared
from trainer.loading import compute_dtype
from trainer.optimiser import parameter_groups
from trainer.recorder import Sink

EVALS, SAVES = 10, 5
"""Evaluations and checkpoints of a run that does not say how often."""
LOSS_TOLERANCE = 0.02
"""Relative difference of two losses that bfloat16 explains; a loss that leaves something out differs more."""


def build_trainer(
    config: RunConfig, model: PeftModel, tokenizer: Any, data: Prepared, folder: Path, sink: Sink
) -> Trainer:
    """The trainer, ready but for its callbacks. Which loss it takes is measured, not guessed."""
    arguments = _arguments(config, folder, len(data.train), data.eval is not None)
    parts = {
        "model": model,
        "args": arguments,
        "train_dataset": data.train,
        "eval_dataset": data.eval,
        "processing_class": tokenizer,
        "data_collator": DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id),
    }
    trainer: Trainer | None = _LabSFTTrainer(**parts) if _head_is_plain(model) else None
    if trainer is None or not _fused_loss_is_right(trainer, model):
        arguments.include_num_input_tokens_seen = "non_padding"
        trainer = _LabTrainer(**parts)
        sink("log", text="The loss is computed from whole logits (the fused one does not fit): more memory per token")
    trainer.remove_callback(PrinterCallback)
    trainer.config = config
    return trainer


def _head_is_plain(model: PeftModel) -> bool:
    """TRL's fused loss multiplies by the head's weight itself and would pass by an adapter on it."""
    head = model.get_output_embeddings()
    return type(head) is nn.Linear or isinstance(head, ModulesToSaveWrapper)


def _fused_loss_is_right(trainer: SFTTrainer, model: PeftModel) -> bool:
    """Whether the fused loss equals the model's own on one example: some models do more after their head."""
    example = trainer.data_collator([trainer.train_dataset[0]])
    inputs = trainer._prepare_inputs(example)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), trainer.compute_loss_context_manager():
            fused, own = (float(model(**inputs, use_cache=False, fused_lm_head=way).loss) for way in (True, False))
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, TypeError, KeyError, ValueError, RuntimeError):
        return False
    finally:
        model.train(was_training)
    return math.isfinite(own) and abs(fused - own) <= LOSS_TOLERANCE * max(abs(own), 1e-3)


def _arguments(config: RunConfig, folder: Path, examples: int, evaluates: bool) -> SFTConfig:
    training = config.training
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    steps = training.max_steps if training.max_steps > 0 else math.ceil(examples / batch * training.num_train_epochs)
    on_gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=training.num_train_epochs,
        max_steps=training.max_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=training.warmup_ratio,  # below 1 it is a share of the steps
        per_device_train_batch_size=training.per_device_train_batch_size,
        per_device_eval_batch_size=training.per_device_train_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        max_length=training.max_length,
        optim=training.optim if on_gpu else "adamw_torch",
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=training.activation_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if training.activation_checkpointing else None,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=training.eval_steps or max(1, steps // EVALS),
        eval_on_start=evaluates,
        save_steps=training.save_steps or max(1, steps // SAVES),
        logging_steps=1,
        logging_nan_inf_filter=False,  # else a NaN loss is drawn as 0
        seed=training.seed,
        use_cpu=not on_gpu,
        bf16=compute_dtype(config.model) == torch.bfloat16,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


class _LabTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose optimiser gives LoRA, LoRA+'s B and modules trained in full their own learning rates."""

    config: RunConfig
    optimizer: torch.optim.Optimizer | None

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            trained = model or self.model
            kind, keywords = self.get_optimizer_cls_and_kwargs(self.args, trained)
            self.optimizer = kind(parameter_groups(trained, self.config), **keywords)
        return self.optimizer


class _LabSFTTrainer(_LabTrainer, SFTTrainer):  # type: ignore[misc]
    """The same with TRL's fused loss head."""
