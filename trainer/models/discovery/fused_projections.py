"""Finds the role of every row of a fused projection by measuring the model's skeleton, never by name.

Attention. Over two tokens with a causal mask, the first output attends to itself alone, its softmax is
1 whatever the scores, and so it depends on value rows only; the second output depends on the first
token's key and value rows, never on its query rows. The gradients of both outputs identify every
row, whatever the layout: blocked, interleaved per head, grouped, split for other hardware. Rows besides queries
that only act on their own token, the first included, are an output gate.

MLP. The output is affine in the `up` half of a gated projection, and not in its `gate` half.

A projection with any other result is left whole: no slice is better than a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainer.models.discovery.skeleton import BATCH, LENGTH, Skeleton

Rows = tuple[tuple[int, int], ...]
Slices = dict[str, Rows]
"""Name of each slice and its rows, in the order of their first rows. A dot before a name stands for the
name of the fused kind."""


class SliceFinder:
    """Hooks the attention and MLP modules of a skeleton and finds fused projections while it runs."""

    def __init__(self, skeleton: Skeleton) -> None:
        self.skeleton = skeleton
        self.found: dict[str, Slices] = {}
        """Full names of fused linears and their slices."""
        self.mixed: set[str] = set()
        """Linears whose rows have several roles that could not be separated reliably."""

    def watch(self, parent: str, linears: list[str], group: str) -> None:
        """Look at the `linears` directly in the module `parent` whenever it runs."""
        find = self._attention if group == "attention" else self._mlp

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            ys = {name: self.skeleton.outputs[name] for name in linears if name in self.skeleton.outputs}
            if ys and not self.skeleton.replay:
                find(ys, only_tensor(output), lambda: only_tensor(module.forward(*args, **kwargs)))

        self.skeleton.model.get_submodule(parent).register_forward_hook(hook, with_kwargs=True)

    def _attention(self, ys: dict[str, torch.Tensor], output: torch.Tensor, call: Callable[[], torch.Tensor]) -> None:
        out = by_token(output)
        if out is None or not out.requires_grad:
            return
        first, second = _rows_reached(out[:, 0], ys), _rows_reached(out[:, 1], ys)
        mixing = [name for name, reached in second.items() if reached is not None and reached[0].any()]
        keys = any(_keys(first[name], second[name]).any() for name in mixing)
        for name, y in ys.items():
            parts, several = _attention_parts(first[name], second[name])
            if several:
                self.mixed.add(name)
            others = [ys[other] for other in mixing if other != name]
            if parts and ".gate" in parts and not keys:
                continue
            if parts and not _feeds(y, others):
                values = _mask(parts.get("v_proj", ()), y.shape[-1])
                if not values.any() or _affine(self.skeleton, name, y, values, call):
                    self.found[name] = parts

    def _mlp(self, ys: dict[str, torch.Tensor], _output: torch.Tensor, call: Callable[[], torch.Tensor]) -> None:
        for name, y in ys.items():
            parts = _gated_parts(self.skeleton, name, y, call) if y.shape[-1] % 2 == 0 else None
            if parts:
                self.found[name] = parts


def _attention_parts(first: _Reached, second: _Reached) -> tuple[Slices | None, bool]:
    """Slices of a projection, and whether its rows have several roles at all.

    `first` and `second` are the rows that the first and the second output reach in it.
    """
    if first is None or second is None or first[1].any():
        return None, False  # not causal: the first output saw the second token
    roles = {
        "q_proj": second[1] & ~second[0] & ~first[0],
        ".gate": second[1] & ~second[0] & first[0],
        "k_proj": second[0] & ~first[0],
        "v_proj": second[0] & first[0],
    }
    rest = ~torch.stack(list(roles.values())).any(0)
    parts = {role: ranges(mask) for role, mask in roles.items() if mask.any()}
    several = len(parts) + bool(rest.any()) > 1
    if parts.keys() == {"q_proj", ".gate"}:
        parts[".query"] = parts.pop("q_proj")
    gated = parts.keys() == {".query", ".gate"}
    fits = gated or ("v_proj" in parts and ".gate" not in parts and len(parts) > 1)
    return in_order(parts) if fits and not rest.any() else None, several


_Reached = tuple[torch.Tensor, torch.Tensor] | None


def _keys(first: _Reached, second: _Reached) -> torch.Tensor:
    """Rows that only matter with two tokens to choose from, the signature of a softmax."""
    if first is None or second is None:
        return torch.zeros(1, dtype=torch.bool)
    return second[0] & ~first[0]


def _rows_reached(out: torch.Tensor, ys: dict[str, torch.Tensor]) -> dict[str, _Reached]:
    """For each linear: the rows of its output at the first and at the second token that `out` depends on."""
    weights = torch.linspace(0.5, 1.5, out.shape[-1]).to(out)
    grads = torch.autograd.grad((out * weights).sum(), list(ys.values()), retain_graph=True, allow_unused=True)
    reached: dict[str, _Reached] = {}
    for name, grad in zip(ys, grads, strict=True):
        tokens = None if grad is None else by_token(grad)
        reached[name] = None
        if tokens is not None:
            reached[name] = ((tokens[:, 0] != 0).any(0), (tokens[:, 1] != 0).any(0))
    return reached


def _feeds(y: torch.Tensor, others: list[torch.Tensor]) -> bool:
    """Whether keys or values are made from `y` by another linear: then its rows serve both."""
    if not others:
        return False
    total = torch.stack([other.sum() for other in others]).sum()
    return torch.autograd.grad(total, y, retain_graph=True, allow_unused=True)[0] is not None


def _gated_parts(skeleton: Skeleton, name: str, y: torch.Tensor, call: Callable[[], torch.Tensor]) -> Slices | None:
    """Halves of a gated projection, contiguous or interleaved; None unless exactly one of these fits."""
    rows = torch.arange(y.shape[-1])
    fits: list[Slices] = []
    for half in (rows < len(rows) // 2, rows % 2 == 0):
        affine = [_affine(skeleton, name, y, mask, call) for mask in (half, ~half)]
        if sum(affine) == 1:
            up = half if affine[0] else ~half
            fits.append(in_order({"gate_proj": ranges(~up), "up_proj": ranges(up)}))
    return fits[0] if len(fits) == 1 else None


def _affine(
    skeleton: Skeleton, name: str, y: torch.Tensor, rows: torch.Tensor, call: Callable[[], torch.Tensor]
) -> bool:
    """Whether a module's output depends on these rows of its linear `name` as an affine function does."""

    def out(factor: float) -> torch.Tensor:
        with skeleton.replaying({name: y.detach() * torch.where(rows, factor, 1.0)}):
            return call()

    whole, none, minus, twice = out(1.0), out(0.0), out(-1.0), out(2.0)
    within = 1e-3 * float(whole.abs().max())
    bends = (minus + whole - 2 * none).abs().max(), (twice + none - 2 * whole).abs().max()
    return bool(max(bends) < within < (minus - whole).abs().max())


def ranges(mask: torch.Tensor) -> Rows:
    """[start, end) ranges of the true entries of a 1-D mask."""
    edge = torch.zeros(1, dtype=torch.int)
    steps = torch.diff(mask.int(), prepend=edge, append=edge)
    starts, ends = (steps == 1).nonzero().flatten().tolist(), (steps == -1).nonzero().flatten().tolist()
    return tuple(zip(starts, ends, strict=True))


def _mask(rows: Rows, count: int) -> torch.Tensor:
    mask = torch.zeros(count, dtype=torch.bool)
    for start, end in rows:
        mask[start:end] = True
    return mask


def only_tensor(output: Any) -> torch.Tensor:
    """The hidden state, which comes first if a module gives more."""
    return output if isinstance(output, torch.Tensor) else output[0]


def by_token(value: torch.Tensor) -> torch.Tensor | None:
    """A hidden state in any of the usual layouts as (batch, length, width); None if it is not one."""
    if value.shape[:2] == (LENGTH, BATCH):
        value = value.transpose(0, 1)
    if value.dim() == 4 and value.shape[1] == 1:
        value = value.squeeze(1)
    if value.dim() == 2 and value.shape[0] == BATCH * LENGTH:
        value = value.view(BATCH, LENGTH, -1)
    if value.shape[:2] != (BATCH, LENGTH):
        return None
    return value.flatten(2)


def in_order(parts: Slices) -> Slices:
    return dict(sorted(parts.items(), key=lambda part: part[1][0]))
