"""The trainer of a run: TRL's SFTTrainer, or transformers' own where TRL's fused loss does not fit the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import Trainer
from trl import SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from trainer.common import heartbeat
from trainer.config.schema import RunConfig
from trainer.training.collation import IGNORED, GroupedSampler, owners
from trainer.training.optimizer import keep_paged, parameter_groups, scale_slices
from trainer.training.steps import Steps


class Sums(NamedTuple):
    """Figures of the step so far, on the device."""

    right: Any = 0
    """Correctly predicted tokens."""
    counted: Any = 0
    """Tokens that count for the loss."""
    router: Any = 0
    """Weighted loss of a mixture of experts' routers (load balancing)."""


class EvaluationStopped(Exception):
    """A stop was requested during an evaluation, which is not finished."""


class ModulesTrainer(Trainer):  # type: ignore[misc]
    """A Trainer with separate learning rates for LoRA, LoRA+'s B and fully trained modules.

    Its eval loss is the mean over all counted tokens of the held-out examples, independent of the batches.
    """

    config: RunConfig
    optimizer: torch.optim.Optimizer | None
    steps: Steps
    grouped: GroupedSampler | None = None
    stop_asked: Callable[[], bool] = staticmethod(lambda: False)
    sums: Sums = Sums()
    keep_losses: Callable[[int, np.ndarray, np.ndarray], None] = staticmethod(lambda *_: None)
    """Called after an evaluation with the step, and each example's summed loss and counted tokens."""
    _evaluated: list[torch.Tensor]
    """For each batch of the eval so far (summed loss, correct predictions, tokens) of its examples, on the device."""

    _batches_evaluated = _batches_to_evaluate = 0

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            trained = model or self.model
            kind, keywords = self.get_optimizer_cls_and_kwargs(self.args, trained)
            self.optimizer = kind(parameter_groups(trained, self.config), **keywords)
            scale_slices(self.optimizer)
            keep_paged(self.optimizer)
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

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """A whole optimizer step: `inputs` is what the collator makes of its examples."""
        model.train()
        return self.steps.run(model, self._prepare_inputs(inputs))

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The share of a micro-batch in the step's loss, which is a mean over `num_items_in_batch` tokens."""
        counted = (inputs["labels"] != IGNORED).sum()
        loss, found = super().compute_loss(model, inputs, True, num_items_in_batch)
        if num_items_in_batch is not None and not self.model_accepts_loss_kwargs:  # a mean over the micro-batch
            loss = loss * counted / num_items_in_batch
        return (loss, found) if return_outputs else loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # transformers leaves padding out by the attention mask, which packed batches do not have
        tokens = inputs.pop("tokens", 0)
        if self.model.training:
            self.state.num_input_tokens_seen += tokens
        return super()._prepare_inputs(inputs)  # type: ignore[no-any-return]

    def _save_checkpoint(self, *values: Any, **keywords: Any) -> None:
        with heartbeat.phase(heartbeat.SAVING):
            super()._save_checkpoint(*values, **keywords)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save only the adapter: "auto" would add whole base embeddings, and Trainer a pickle of its arguments.

        Trainer has no setting for what `save_pretrained` is called with, nor one that leaves the pickle out.
        """
        self.model.save_pretrained(output_dir or self.args.output_dir, save_embedding_layers=False)

    def log(self, logs: dict[str, float], *values: Any, **keywords: Any) -> None:
        logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
        super().log(logs, *values, **keywords)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[Any, None, None]:
        found = self.score(model, inputs)
        self._evaluated.append(found)
        self._batches_evaluated += 1
        heartbeat.progress(self._batches_evaluated, self._batches_to_evaluate)
        if self.stop_asked():
            raise EvaluationStopped
        return (found[0].sum() / found[2].sum().clamp(min=1)).float(), None, None

    def score(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """(3, examples): summed loss, correct predictions and counted tokens of each example of a collated batch."""
        batch = self._prepare_inputs(inputs)
        sums = torch.zeros(3, len(batch["lengths"]), dtype=torch.float64, device=self.args.device)
        with torch.no_grad(), self.compute_loss_context_manager():
            for tensors, part in zip(batch["micro_batches"], batch["parts"], strict=True):
                places = owners(part, batch["lengths"], tensors["input_ids"].shape[1]).to(sums.device)
                for piece in self.steps.split([tensors | {"places": places}]):
                    examples = piece.pop("places")[:, 1:]
                    losses, right, counted = self.token_losses(model, piece)
                    found = torch.stack([losses.double(), right.double(), counted.double()])
                    sums.index_add_(1, examples[counted], found[:, counted])
                    heartbeat.beat()
        return sums

    def token_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Of each position but the last, (rows, width - 1): the loss of the next token, whether it is predicted,
        whether it counts. Only what counts has a loss."""
        labels = inputs.pop("labels")[:, 1:]
        counted = labels != IGNORED
        logits = model(**inputs, use_cache=False).logits[:, :-1][counted].float()
        wanted = labels[counted]
        losses = torch.zeros(labels.shape, device=logits.device)
        right = torch.zeros_like(counted)
        losses[counted] = nn.functional.cross_entropy(logits, wanted, reduction="none")
        right[counted] = logits.argmax(-1) == wanted
        return losses, right, counted

    def evaluate(self, *values: Any, **keywords: Any) -> dict[str, float]:
        """Its figures; none if a stop was requested: the step so far is then saved."""
        try:
            return super().evaluate(*values, **keywords)  # type: ignore[no-any-return]
        except EvaluationStopped:
            self.control.should_evaluate = False
            self.control.should_training_stop = self.control.should_save = True
            return {}

    def evaluation_loop(self, batches: Any, *values: Any, metric_key_prefix: str = "eval", **keywords: Any) -> Any:
        self._evaluated = []
        self._batches_evaluated, self._batches_to_evaluate = 0, len(batches)
        with heartbeat.phase(heartbeat.EVALUATING):
            found = super().evaluation_loop(batches, *values, metric_key_prefix=metric_key_prefix, **keywords)
        losses, right, tokens = torch.cat(self._evaluated, dim=1).cpu().numpy()
        if count := tokens.sum():
            found.metrics[f"{metric_key_prefix}_loss"] = float(losses.sum() / count)
            found.metrics[f"{metric_key_prefix}_mean_token_accuracy"] = float(right.sum() / count)
        self.keep_losses(self.state.global_step, losses, tokens)
        return found


class ModulesSFTTrainer(ModulesTrainer, SFTTrainer):  # type: ignore[misc]
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
        right, counted, router = self.sums
        loss = -found.log_probs.sum() / num_items_in_batch
        if self.aux_loss_enabled:  # a mean over the micro-batch, where the other is a share of the step's sum
            own = self.router_aux_loss_coef * found.aux_loss / self.current_gradient_accumulation_steps
            loss, router = loss + own, router + own.detach()
        self.sums = Sums(right + found.is_top1.sum(), counted + found.label_mask.sum(), router)
        return (loss, found) if return_outputs else loss

    def log(self, logs: dict[str, float], *values: Any, **keywords: Any) -> None:
        if "loss" in logs:
            right, counted, router = self.sums
            logs["mean_token_accuracy"] = float(right / max(int(counted), 1))
            if self.aux_loss_enabled:  # logged apart, so that training and eval loss are the same quantity
                logs["router_loss"] = float(router)
                logs["loss"] -= logs["router_loss"]
            self.sums = Sums()
        super().log(logs, *values, **keywords)

    def token_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, Any, Any]:
        found = model(**inputs, use_cache=False, fused_lm_head=True)
        return -found.log_probs, found.is_top1, found.label_mask
