"""A CPU kernel for torch's `varlen_attn`, which has kernels for GPUs only: its definition, written out.

The operator, its shapes for the compiler and its autograd stay torch's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention import varlen


def install() -> None:
    """Give the operator a kernel for CPUs until the process ends."""
    varlen._varlen_attn.register_kernel("cpu", _forward)
    varlen._varlen_attn_backward.register_kernel("cpu", _backward)


def _forward(q: Any, k: Any, v: Any, bounds: Any, *rest: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _, _, _, _causal, scale, window, *_ = rest
    scores = _scores(q, _repeat(k, q), bounds, scale, window)
    out = torch.einsum("hqk,khd->qhd", scores.softmax(-1), _repeat(v, q).float())
    return out.to(q.dtype).contiguous(), scores.logsumexp(-1), torch.zeros(2, dtype=torch.uint64)


def _backward(grad: Any, q: Any, k: Any, v: Any, out: Any, *rest: Any) -> tuple[Any, ...]:
    """As in the paper on flash attention, from the output and the scores' log-sum-exp."""
    lse, bounds, _, _, _, _causal, _rng, scale, window = rest
    grad, out = grad.float(), out.float()
    weights = (_scores(q, _repeat(k, q), bounds, scale, window) - lse[..., None]).exp()
    by_weight = torch.einsum("qhd,khd->hqk", grad, _repeat(v, q).float())
    by_score = weights * (by_weight - torch.einsum("qhd,qhd->hq", grad, out)[..., None]) * _scale(q, scale)
    dq = torch.einsum("hqk,khd->qhd", by_score, _repeat(k, q).float())
    dk = torch.einsum("hqk,qhd->khd", by_score, q.float())
    dv = torch.einsum("hqk,qhd->khd", weights, grad)
    dk, dv = (part.unflatten(1, (k.shape[1], -1)).sum(2) for part in (dk, dv))
    return tuple(part.to(q.dtype).contiguous() for part in (dq, dk, dv))


def _scores(q: Any, k: Any, bounds: torch.Tensor, scale: float | None, window: list[int]) -> torch.Tensor:
    """(heads, queries, keys) in float32, minus infinity where a query does not see a key."""
    assert bounds.dtype == torch.int32
    assert window[1] == 0
    assert (int(bounds[0]), int(bounds[-1])) == (0, len(q))
    place = torch.arange(len(q))
    example = torch.bucketize(place, bounds.long(), right=True)
    distance = place[:, None] - place
    seen = (example[:, None] == example) & (distance >= 0) & ((window[0] < 0) | (distance <= window[0]))
    return (torch.einsum("qhd,khd->hqk", q, k).float() * _scale(q, scale)).masked_fill(~seen, float("-inf"))


def _scale(q: torch.Tensor, scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


def _repeat(shared: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Keys or values, once per query head."""
    return shared.repeat_interleave(q.shape[1] // shared.shape[1], 1)
