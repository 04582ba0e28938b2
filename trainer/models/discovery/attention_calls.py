"""Watches how a model calls its attention: whether it passes on what tells packed examples apart without a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from trainer.models.attention_setting import current_attention, use_attention

_WATCHED = "watched"
KEYWORD = "example_bounds"
"""Keyword of a model's forward pass that its attention must get."""


def watched_head_size(model: PreTrainedModel, **inputs: Any) -> int:
    """Elements of a query's head, the largest if they differ; 0 unless attention always gets KEYWORD and no mask.

    `model` is a skeleton; `inputs` is what it needs besides token ids.
    """
    sizes: list[int] = []

    def watch(
        _module: nn.Module, query: torch.Tensor, _key: Any, value: torch.Tensor, mask: Any, **others: Any
    ) -> tuple[torch.Tensor, None]:
        if mask is not None or others.get(KEYWORD) is None:
            raise ValueError(KEYWORD)
        rows, heads, width, size = query.shape
        sizes.append(size)
        return query.new_zeros(rows, width, heads, value.shape[-1]), None

    AttentionInterface.register(_WATCHED, watch)
    before = current_attention(model)
    use_attention(model, _WATCHED)
    try:
        with torch.no_grad():
            ids = torch.ones(1, 2, dtype=torch.long)
            model(input_ids=ids, use_cache=False, **{KEYWORD: torch.tensor([[0, 2]])}, **inputs)
    except Exception:  # whatever a model's own code may raise; then other attention is used
        return 0
    finally:
        use_attention(model, before)
    return max(sizes, default=0)
