"""Watches whether a model passes on to its attention what tells packed examples apart without a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from trainer.models.attention_setting import current_attention, use_attention

_WATCHED = "watched"
KEYWORD = "example_bounds"
"""Keyword of a model's forward pass that its attention must get."""


def passes_keywords_on(model: PreTrainedModel, **inputs: Any) -> bool:
    """Whether the attention of `model`, a skeleton, always gets KEYWORD and no mask. `inputs`: what else it needs."""
    calls: list[bool] = []

    def watch(
        _module: nn.Module, query: torch.Tensor, _key: Any, value: torch.Tensor, mask: Any, **others: Any
    ) -> tuple[torch.Tensor, None]:
        calls.append(mask is None and others.get(KEYWORD) is not None)
        rows, heads, width, _ = query.shape
        return query.new_zeros(rows, width, heads, value.shape[-1]), None

    AttentionInterface.register(_WATCHED, watch)
    before = current_attention(model)
    use_attention(model, _WATCHED)
    try:
        with torch.no_grad():
            ids = torch.ones(1, 2, dtype=torch.long)
            model(input_ids=ids, use_cache=False, **{KEYWORD: torch.tensor([[0, 2]])}, **inputs)
    except Exception:  # whatever a model's own code may raise; then other attention is used
        return False
    finally:
        use_attention(model, before)
    return bool(calls) and all(calls)
