"""Attention without a dense mask: torch's variable-length flash attention, registered with transformers.

A registered function that has no mask function gets no mask from transformers: examples are told apart by where they
begin (`example_bounds`), which travels through the model as a keyword, like the lengths for its flash attention.
Padding needs no mask either: it is on the right, where no token that counts sees it.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import varlen
from transformers import AttentionInterface

from trainer.models.discovery.attention_calls import KEYWORD
from trainer.planning.attention import VARLEN

_UNSUPPORTED = ("softcap", "s_aux", "position_bias", "cache")
# versions without the parameter take grouped queries as they are
_GROUPED = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters else {}


def example_bounds(position_ids: torch.Tensor) -> torch.Tensor:
    """Where the examples of packed rows begin, and the end of each row: int32 (rows, most examples + 1).

    `position_ids` (rows, width) restart at 0 at every example; padding, which is 0 throughout, counts as an example.
    Rows with fewer examples repeat their end. Meant for a tensor on the CPU: the shape depends on its values.
    """
    before = functional.pad(position_ids[:, :-1], (1, 0), value=-1)
    after = functional.pad(position_ids[:, 1:], (0, 1))
    begins = (position_ids == 0) & ((before != 0) | (after == 1))
    rows = [row.nonzero().flatten() for row in begins]
    most = max(len(row) for row in rows) + 1
    width = position_ids.shape[1]
    return torch.stack([functional.pad(row, (0, most - len(row)), value=width) for row in rows]).int()


def packed(position_ids: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
    """The model's inputs that tell packed examples apart, for the attention called `name`; each has a row per row."""
    bounds = {KEYWORD: example_bounds(position_ids)} if name == VARLEN else {}
    return {"position_ids": position_ids, **bounds}


def varlen_attention(  # noqa: PLR0913 (transformers calls it)
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    example_bounds: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each example, by `torch.nn.attention.varlen.varlen_attn`.

    `query` is (rows, heads, width, size), `key` and `value` have one head per group; returns (rows, width, heads,
    size). Without `example_bounds`, every row is one example. Raises ValueError for what the kernels cannot do.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    refused = [name for name in _UNSUPPORTED if others.get(name) is not None]
    if attention_mask is not None or dropout or not causal or refused:
        raise ValueError(f"varlen_attn only does causal attention without a mask, dropout or {refused or 'extras'}")
    rows, heads, width, size = query.shape
    own = value.shape[-1]
    value = functional.pad(value, (0, size - own)) if own < size else value
    dtype = _half(query)
    flat = (part.transpose(1, 2).reshape(rows * width, part.shape[1], size).to(dtype) for part in (query, key, value))
    starts = torch.arange(0, (rows + 1) * width, width, dtype=torch.int32, device=query.device)
    if example_bounds is not None:
        starts = (example_bounds + starts[:-1, None]).flatten()
    window = (sliding_window - 1 if sliding_window else -1, 0)
    bounds = (starts, starts, width, width)
    kernel: Any = varlen.varlen_attn  # its parameters differ between versions
    found = kernel(*flat, *bounds, scale=scaling, window_size=window, **_GROUPED)
    return found.reshape(rows, width, heads, size)[..., :own], None


def _half(query: torch.Tensor) -> torch.dtype:
    """The 16-bit type that the kernels take, as autocast would cast SDPA's inputs."""
    kind = query.device.type
    widened = query.dtype == torch.float32 and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if widened else query.dtype


AttentionInterface.register(VARLEN, varlen_attention)
