"""Checks on the real model before the first step: attention, exact packing and the fused loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from torch.nn import functional
from trl import SFTTrainer

from trainer.common.errors import first_line
from trainer.models.attention_setting import current_attention, use_attention
from trainer.planning.attention import SDPA
from trainer.training import attention
from trainer.training.callbacks import Sink

LOSS_TOLERANCE = 0.02
"""Relative difference of two losses that bfloat16 explains; a wrong loss differs more."""
LEAK_TOLERANCE, ROUNDING_TOLERANCE = 1e-4, 0.2
"""In standard deviations of the logits: allowed influence of another example in the row, and of bfloat16 rounding."""
MOST_TOKENS = 512
"""Tokens of the row on which implementations of attention are compared, at most."""
ATTENTION_TOLERANCE = 0.1
"""Root mean square difference of logits, in their standard deviations, that kernels in bfloat16 explain."""
GRADIENT_TOLERANCE = 0.05
"""Relative difference of two norms of the gradient that bfloat16 explains."""
Batch = dict[str, torch.Tensor]


def choose_attention(model: PeftModel, wanted: str, max_length: int, context: Callable[[], Any], sink: Sink) -> str:
    """Switch `model` to the planned attention if it gives the same logits and gradient; returns the one in use.

    With SDPA, cuDNN's kernels are turned off: with a mask, they are rebuilt for every shape, and are known for NaN
    gradients.
    """
    before = current_attention(model)
    if wanted != SDPA:
        inputs = partial(_one_row, max_length, packed=packing_is_exact(model, context))
        plain = _logits_and_gradient(model, inputs(model), context)
        use_attention(model, wanted)
        try:
            problem = _difference(plain, _logits_and_gradient(model, inputs(model), context))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler or a kernel may raise
            problem = f"{type(error).__name__}: {first_line(error)}"
        if not problem:
            return wanted
        use_attention(model, before)
        model.zero_grad()
        sink("log", text=f"Attention stays {before}, with a mask: {wanted} does not work here ({problem})")
    torch.backends.cuda.enable_cudnn_sdp(False)
    return before


def _one_row(max_length: int, model: Any, packed: bool) -> Batch:
    """A row of arbitrary tokens: two examples, or one if the model cannot keep them apart anyway."""
    config, device = model.config.get_text_config(decoder=True), next(model.parameters()).device
    width = min(MOST_TOKENS, max_length, int(getattr(config, "max_position_embeddings", 0) or MOST_TOKENS))
    ids = torch.arange(width)[None] * 7919 % min(int(getattr(config, "vocab_size", 0) or 1000), 1000)
    positions = torch.cat([torch.arange(width // 3), torch.arange(width - width // 3)])[None]
    apart = attention.packed(positions, current_attention(model)) if packed else {}
    return {key: value.to(device) for key, value in {"input_ids": ids, **apart}.items()}


def _logits_and_gradient(model: Any, inputs: Batch, context: Callable[[], Any]) -> tuple[torch.Tensor, float]:
    """Logits of a row, (tokens, vocabulary), and the norm of their loss's gradient."""
    was_training = model.training
    try:
        with context():
            with torch.no_grad():  # refused with dropout, which would make the logits below random
                model.train()(**inputs, use_cache=False)
            logits = model.eval()(**inputs, use_cache=False).logits[0].float()
            loss = functional.cross_entropy(logits[:-1], inputs["input_ids"][0, 1:])
        torch.autograd.backward(loss)
    finally:
        model.train(was_training)
    norms = [parameter.grad.float().norm() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return logits.detach(), float(torch.stack(norms).norm())


def _difference(plain: tuple[torch.Tensor, float], other: tuple[torch.Tensor, float]) -> str:
    """What differs by more than rounding; empty if nothing does."""
    apart = float((plain[0] - other[0]).square().mean().sqrt() / plain[0].std())
    if not apart <= ATTENTION_TOLERANCE:
        return f"its logits differ by {apart:.2g} standard deviations"
    if not abs(plain[1] - other[1]) <= GRADIENT_TOLERANCE * plain[1]:
        return f"the norm of its gradient is {other[1]:.3g} instead of {plain[1]:.3g}"
    return ""


def packing_is_exact(model: Any, context: Callable[[], Any]) -> bool:
    """Whether the model isolates packed examples, measured on two synthetic ones.

    The second one's logits must not move when the first one changes, and must be those it has alone.
    """
    size = min(int(getattr(model.config.get_text_config(), "vocab_size", 0) or 1000), 1000)
    first, other, second = (torch.arange(start, start + 12) * 7 % max(size - 1, 1) + 1 for start in (1, 40, 90))
    rows = attention.packed(torch.arange(12).repeat(2)[None], current_attention(model))

    def logits(ids: torch.Tensor, **keywords: Any) -> torch.Tensor:
        device = next(model.parameters()).device
        moved = {key: value.to(device) for key, value in keywords.items()}
        found: torch.Tensor = model(input_ids=ids[None].to(device), use_cache=False, **moved).logits
        return found[0, -12:].float().cpu()

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), context():
            packed = logits(torch.cat([first, second]), **rows)
            moved = logits(torch.cat([other, second]), **rows)
            alone = logits(second, attention_mask=torch.ones(1, 12, dtype=torch.long))
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, TypeError, KeyError, ValueError, RuntimeError, IndexError):
        return False
    finally:
        model.train(was_training)
    scale = float(alone.std())
    return (
        float((packed - moved).abs().max()) <= LEAK_TOLERANCE * scale
        and float((packed - alone).abs().max()) <= ROUNDING_TOLERANCE * scale
    )


def head_is_plain(model: PeftModel) -> bool:
    """Whether the head has no adapter, which TRL's fused loss would ignore: it uses the weight directly."""
    head = model.get_output_embeddings()
    return type(head) is nn.Linear or isinstance(head, ModulesToSaveWrapper)


def fused_loss_is_right(trainer: SFTTrainer, model: PeftModel) -> bool:
    """Whether the fused loss equals the model's own on one example: some models do more after their head."""
    step = trainer.data_collator([trainer.train_dataset[0]])
    inputs = trainer._prepare_inputs(step["micro_batches"][0])
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), trainer.accelerator.autocast():  # as in training, where accelerate puts it around
            fused, own = (float(model(**inputs, use_cache=False, fused_lm_head=way).loss) for way in (True, False))
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, TypeError, KeyError, ValueError, RuntimeError):
        return False
    finally:
        model.train(was_training)
    return math.isfinite(own) and abs(fused - own) <= LOSS_TOLERANCE * max(abs(own), 1e-3)
