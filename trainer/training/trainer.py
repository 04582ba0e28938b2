"""The trainer of a run: TRL's SFTTrainer, or transformers' own where TRL's fused loss does not fit the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import PrinterCallback, Trainer
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from trainer.common.formatting import percent
from trainer.config.schema import RunConfig
from trainer.data import PreparedData, packing
from trainer.planning import schedule
from trainer.planning.performance import PerformanceSettings
from trainer.training.callbacks import Sink
from trainer.training.collation import IGNORED, Collator, GroupedSampler
from trainer.training.compilation import Compiler
from trainer.training.loading import compute_dtype
from trainer.training.optimizer import parameter_groups, scale_slices
from trainer.training.preflight import fused_loss_is_right, head_is_plain, packing_is_exact


class Outputs(NamedTuple):
    """Where a training writes."""

    checkpoints: Path
    """Folder of its checkpoints."""
    sink: Sink
    """Receives its events."""


def build_trainer(
    config: RunConfig,
    performance: PerformanceSettings,
    model: PeftModel,
    tokenizer: Any,
    data: PreparedData,
    outputs: Outputs,
) -> Trainer:
    """The trainer without its callbacks. Whether it uses the fused loss and packing is measured on the model."""
    held_out = len(data.eval) if data.eval is not None else 0
    arguments = _arguments(config, performance, outputs.checkpoints, len(data.train), held_out)
    sink, collator = outputs.sink, Collator(config.training.max_length)
    parts = {
        "model": model,
        "args": arguments,
        "train_dataset": data.train,
        "eval_dataset": data.eval,
        "processing_class": tokenizer,
        "data_collator": collator,
    }
    trainer: Trainer | None = _ModulesSFTTrainer(**parts) if head_is_plain(model) else None
    if trainer is None or not fused_loss_is_right(trainer, model):
        trainer = _ModulesTrainer(**parts)
        sink(
            "log",
            text="The fused loss does not work for this model: full logits take more memory per token",
        )
    trainer.remove_callback(PrinterCallback)
    trainer.config = config
    trainer.args.use_liger_kernel = performance.use_liger_kernel  # read when training starts; TRL would warn about it
    trainer.args.liger_kernel_config = _liger(model)
    if performance.torch_compile:
        trainer.add_callback(Compiler(trainer, sink))
    _choose_batching(trainer, config, performance, data.lengths, collator, sink)
    return trainer


def _choose_batching(
    trainer: Any,
    config: RunConfig,
    performance: PerformanceSettings,
    lengths: np.ndarray,
    collator: Collator,
    sink: Sink,
) -> None:
    """Choose packing or grouping by length, and log it."""
    training, way = config.training, config.training.packing
    filled = packing.fill(lengths, performance.per_device_train_batch_size, training.max_length, training.seed)
    if way == "bfd" or (way == "auto" and packing.is_worthwhile(filled)):
        if packing_is_exact(trainer.model, trainer.accelerator.autocast):
            collator.packed, way = True, "bfd"
        else:
            way = "group_by_length"
            sink("log", text="This model cannot isolate packed examples: they are grouped by length instead")
    if way == "group_by_length":
        trainer.grouped = GroupedSampler(lengths, schedule.batch_size(training), training.seed)
    if way in ("bfd", "group_by_length"):
        how = "packed" if way == "bfd" else "grouped by length"
        useful, otherwise = (percent(filled[key]) for key in (way, "off"))
        sink("log", text=f"Batches are {how}: {useful} useful tokens ({otherwise} otherwise)")


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
        per_device_train_batch_size=performance.per_device_train_batch_size,
        per_device_eval_batch_size=training.per_device_train_batch_size,
        gradient_accumulation_steps=performance.gradient_accumulation_steps,
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
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        include_num_input_tokens_seen="no",  # counted here, packed or not
    )


class _ModulesTrainer(Trainer):  # type: ignore[misc]
    """A Trainer with separate learning rates for LoRA, LoRA+'s B and fully trained modules.

    Its eval loss is the mean over all counted tokens of the held-out examples, independent of the batches.
    """

    config: RunConfig
    optimizer: torch.optim.Optimizer | None
    grouped: GroupedSampler | None = None
    _right: Any = 0
    _counted: Any = 0
    """Correctly predicted tokens and counted tokens of the step so far, on the device."""
    _router: Any = 0
    """Weighted loss of a mixture of experts' routers (load balancing) of the step so far, on the device."""
    _sums: torch.Tensor | None = None
    """(negative log likelihood, correct predictions, tokens) of the eval so far, in float64."""

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            trained = model or self.model
            kind, keywords = self.get_optimizer_cls_and_kwargs(self.args, trained)
            self.optimizer = kind(parameter_groups(trained, self.config), **keywords)
            scale_slices(self.optimizer)
        return self.optimizer

    def _get_learning_rate(self) -> float:
        """The logged rate: the shared one if any group uses it, else the first group's.

        transformers always logs the first group's rate, and has no public hook to choose another.
        """
        assert self.optimizer is not None
        peaks = [group["initial_lr"] for group in self.optimizer.param_groups]
        shared = self.config.training.learning_rate
        return float(self.lr_scheduler.get_last_lr()[peaks.index(shared) if shared in peaks else 0])

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        # transformers' grouping by length reads every example first, and takes no sampler of ours
        return self.grouped if self.grouped is not None else super()._get_train_sampler(train_dataset)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # unused, and counting would walk all parameters at every batch

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # transformers leaves padding out by the attention mask, which packed batches do not have
        tokens = inputs.pop("tokens", 0)
        if self.model.training:
            self.state.num_input_tokens_seen += tokens
        return super()._prepare_inputs(inputs)  # type: ignore[no-any-return]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save only the adapter: "auto" would add whole base embeddings, and Trainer a pickle of its arguments.

        Trainer has no setting for what `save_pretrained` is called with, nor one that leaves the pickle out.
        """
        self.model.save_pretrained(output_dir or self.args.output_dir, save_embedding_layers=False)

    def log(self, logs: dict[str, float], *values: Any, **keywords: Any) -> None:
        logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
        super().log(logs, *values, **keywords)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[Any, None, None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, right, count = self._score(model, inputs)
        if self._sums is not None:
            self._sums += torch.tensor([float(loss), float(right), float(count)], dtype=torch.float64)
        return loss / max(int(count), 1), None, None

    def _score(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Sums over a batch's counted tokens: negative log likelihood, correct predictions, tokens."""
        labels = inputs.pop("labels")[:, 1:]
        counted = labels != IGNORED
        logits = model(**inputs, use_cache=False).logits[:, :-1][counted].float()
        wanted = labels[counted]
        loss = nn.functional.cross_entropy(logits, wanted, reduction="sum")
        return loss, (logits.argmax(-1) == wanted).sum(), wanted.numel()

    def evaluation_loop(self, *values: Any, metric_key_prefix: str = "eval", **keywords: Any) -> Any:
        self._sums = torch.zeros(3, dtype=torch.float64)
        found = super().evaluation_loop(*values, metric_key_prefix=metric_key_prefix, **keywords)
        loss, right, count = self._sums.tolist()
        if count:
            found.metrics[f"{metric_key_prefix}_loss"] = loss / count
            found.metrics[f"{metric_key_prefix}_mean_token_accuracy"] = right / count
        return found


class _ModulesSFTTrainer(_ModulesTrainer, SFTTrainer):  # type: ignore[misc]
    """The same with TRL's fused loss head, but without its entropy and per-batch device synchronization.

    TRL's own `compute_loss` reads four values back from the device for every batch. Here accuracy is accumulated on
    the device and read once per step, with the loss.
    """

    def __init__(self, *values: Any, **keywords: Any) -> None:
        super().__init__(*values, **keywords)
        for parameter in self.model.parameters():
            if parameter.requires_grad:  # TRL casts it to bfloat16, which the fused loss does not support
                parameter.data = parameter.data.float()
        add_fused_lm_head(self.model.get_base_model(), outputs=("log_probs", "is_top1"))

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        found = model(**inputs, use_cache=False, fused_lm_head=True)
        count = found.label_mask.sum()
        self._right, self._counted = self._right + found.is_top1.sum(), self._counted + count
        loss = -found.log_probs.sum() / (count if num_items_in_batch is None else num_items_in_batch).clamp(min=1)
        if self.aux_loss_enabled:  # a mean over the batch, where the other is a share of the step's sum
            steps = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
            router = self.router_aux_loss_coef * found.aux_loss / steps
            self._router = self._router + router.detach()
            loss = loss + router
        return (loss, found) if return_outputs else loss

    def log(self, logs: dict[str, float], *values: Any, **keywords: Any) -> None:
        if "loss" in logs:
            logs["mean_token_accuracy"] = float(self._right / max(int(self._counted), 1))
            self._right = self._counted = 0
            if self.aux_loss_enabled:  # logged apart, so that training and eval loss are the same quantity
                logs["router_loss"] = float(self._router)
                logs["loss"] -= logs["router_loss"]
                self._router = 0
        super().log(logs, *values, **keywords)

    def _score(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, Any, Any]:
        found = model(**inputs, use_cache=False, fused_lm_head=True)
        return -found.log_probs.sum(), found.is_top1.sum(), found.label_mask.sum()
