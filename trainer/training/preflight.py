"""Checks on the real model before the first step: exact packing and the fused loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from trl import SFTTrainer

LOSS_TOLERANCE = 0.02
"""Relative difference of two losses that bfloat16 explains; a wrong loss differs more."""
LEAK_TOLERANCE, ROUNDING_TOLERANCE = 1e-4, 0.2
"""In standard deviations of the logits: allowed influence of another example in the row, and of bfloat16 rounding."""


def packing_is_exact(model: Any, context: Callable[[], Any]) -> bool:
    """Whether the model isolates packed examples, measured on two synthetic ones.

    The second one's logits must not move when the first one changes, and must be those it has alone.
    """
    size = min(int(getattr(model.config.get_text_config(), "vocab_size", 0) or 1000), 1000)
    first, other, second = (torch.arange(start, start + 12) * 7 % max(size - 1, 1) + 1 for start in (1, 40, 90))
    positions = torch.arange(12).repeat(2)[None]

    def logits(ids: torch.Tensor, **keywords: Any) -> torch.Tensor:
        device = next(model.parameters()).device
        moved = {key: value.to(device) for key, value in keywords.items()}
        found: torch.Tensor = model(input_ids=ids[None].to(device), use_cache=False, **moved).logits
        return found[0, -12:].float().cpu()

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), context():
            packed = logits(torch.cat([first, second]), position_ids=positions)
            moved = logits(torch.cat([other, second]), position_ids=positions)
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
