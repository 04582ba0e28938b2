"""What the rows of a mixer's input projections are: state-space mixers and linear attention with a convolution.

Such a mixer mixes tokens in two places, a short causal convolution and a recurrent state. So the
convolution is set to pass on the same token (`now`), then the token before (`late`), and for each row a
gradient shows whether the second output depends on it at the second token (`own`) and at the first
(`cross`). A row that passes the convolution loses `own` under `late`. This distinguishes:

    z   the gate: past the convolution, and its own token only
    dt  the time step (`b`, the strength, of linear attention): past the convolution, into the state
    C   what reads the state (`q` of linear attention): convolved, its own token only
    x B what the state is written with (`v`, `k`): convolved, into the state
    a   the decay: without effect at the first token, which finds the state empty

x and B enter as a product. With C at zero, only x is left, by its skip to the output. Linear attention has
no such skip: there the norm of the first output takes out all that a key can do, and leaves values alone;
that the delta rule erases by key even where the values are zero confirms it. A gated convolution has no state:
its two factors are convolved as a product, and the gate C is past it.

A projection with any other result is left whole: no slice is better than a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainer.models.discovery.fused_projections import Slices, by_token, in_order, only_tensor, ranges
from trainer.models.discovery.skeleton import REAL_LIMIT, Skeleton

Masks = dict[str, torch.Tensor]

ROUNDING = 0.01
"""A gradient that is this small beside another of the same row may be none."""


class MixerFinder:
    """Watches the mixers of a skeleton while it runs, and collects what it finds."""

    def __init__(self, skeleton: Skeleton) -> None:
        self.skeleton = skeleton
        self.found: dict[str, Slices] = {}
        """Full names of fused linears and their slices, each named with a dot before it."""
        self.mixed: set[str] = set()
        """Linears whose rows have several roles that could not be separated reliably."""

    def watch(self, parent: str, linears: list[str]) -> None:
        """Look at the `linears` directly in the module `parent` whenever it runs, if it is a mixer."""
        module = self.skeleton.model.get_submodule(parent)
        conv = convolution(module)
        if conv is None or module.training:
            return

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if not self.skeleton.replay:
                for name in linears:
                    y = self.skeleton.outputs.get(name)
                    if y is not None and y is not only_tensor(output):
                        self._look(name, Probe(self.skeleton, module, conv, name, args, kwargs))

        module.register_forward_hook(hook, with_kwargs=True)

    def _look(self, name: str, probe: Probe) -> None:
        try:
            masks = roles(probe)
        except Exception:  # whatever a model's own code may raise on unusual inputs
            return
        if masks and len(masks) > 1 and fits(masks, probe):
            self.found[name] = in_order({f".{role}": ranges(mask) for role, mask in masks.items()})
        elif masks and len(masks) > 1:
            self.mixed.add(name)


def convolution(module: nn.Module) -> nn.Conv1d | None:
    """The one convolution over tokens, channel by channel, of a mixer; None if this is not a mixer."""
    convs = [child for child in module.children() if isinstance(child, nn.Conv1d)]
    depthwise = [conv for conv in convs if conv.groups == conv.in_channels and conv.kernel_size[0] > 1]
    return depthwise[0] if len(convs) == len(depthwise) == 1 else None


@dataclass(frozen=True)
class Reach:
    """For each row, how far outputs depend on it: the size of the largest gradient."""

    first: torch.Tensor
    """Of the first output, at the first token."""
    own: torch.Tensor
    """Of the second output, at the second token."""
    cross: torch.Tensor
    """Of the second output, at the first token."""


class Probe:
    """One linear of one mixer, to be run again under changed circumstances."""

    def __init__(
        self, skeleton: Skeleton, mixer: nn.Module, conv: nn.Conv1d, name: str, args: Any, kwargs: dict[str, Any]
    ) -> None:
        self.skeleton, self.mixer, self.conv, self.name = skeleton, mixer, conv, name
        self.args, self.kwargs = args, kwargs
        self.y = skeleton.outputs[name].detach()

    def reach(
        self, lag: int, zeros: torch.Tensor | None = None, tokens: slice = slice(None), exact_norms: bool = False
    ) -> Reach | None:
        """With a convolution of this lag and the rows `zeros` at zero at `tokens`; None if not causal."""
        y = self.y.clone()
        if zeros is not None:
            y[:, tokens] = torch.where(zeros, 0.0, y[:, tokens])
        y.requires_grad_()
        with self.skeleton.replaying({self.name: y}), torch.enable_grad(), self._simply(lag, exact_norms):
            out = by_token(only_tensor(self.mixer.forward(*self.args, **self.kwargs)))
            if out is None:
                return None
            weights = torch.linspace(0.5, 1.5, out.shape[-1]).to(out)
            sums = [(out[:, token] * weights).sum() for token in (0, 1)]
            first, second = (torch.autograd.grad(total, y, retain_graph=True)[0].abs().amax(0) for total in sums)
        return None if first[1].any() else Reach(first[0], second[1], second[0])

    @contextmanager
    def _simply(self, lag: int, exact_norms: bool) -> Iterator[None]:
        """Inside, the convolution passes on the token `lag` steps before, and the state forgets slowly.

        At a model's own decay, what the first token wrote can be rounded away at the second, and a limit on
        time steps can cut off how they depend on their rows.
        """
        kept: list[tuple[dict[str, Any], str, Any]] = []
        for module, key, value in self._simple_values(lag):
            old = module._parameters.get(key)
            if old is not None:
                kept.append((module._parameters, key, old))
                module._parameters[key] = nn.Parameter(torch.zeros(old.shape) + value, requires_grad=False)
        for norm in self.mixer.modules():
            if exact_norms and hasattr(norm, "variance_epsilon"):
                kept.append((vars(norm), "variance_epsilon", norm.variance_epsilon))
                vars(norm)["variance_epsilon"] = 0.0
        try:
            yield
        finally:
            for owner, key, old in kept:
                owner[key] = old

    def _simple_values(self, lag: int) -> Iterator[tuple[nn.Module, str, torch.Tensor | float]]:
        tap = torch.zeros(self.conv.weight.shape)
        tap[..., -1 - lag] = 1.0
        yield self.conv, "weight", tap
        yield self.conv, "bias", 0.0
        yield self.mixer, "A_log", -2.0
        yield self.mixer, "dt_bias", -4.0
        for key, parameter in self.mixer.named_parameters(recurse=False):
            if parameter.numel() > REAL_LIMIT and key != "A_log":  # a placeholder of zeros
                yield self.mixer, key, self.skeleton.noise.take(*parameter.shape) / parameter.shape[-1] ** 0.5


def roles(probe: Probe) -> Masks | None:
    """The rows of each role there is, `?` for those that show none; None if the mixer is not causal."""
    now, late = probe.reach(0), probe.reach(1)
    if now is None or late is None:
        return None
    first, own, cross = now.first != 0, now.own != 0, now.cross != 0
    convolved = first & own & (late.own == 0) & (late.cross != 0)
    past = first & own & (late.own != 0) & (late.cross == 0)
    masks = {
        "z": past & ~cross,
        "dt": past & cross,
        "C": convolved & ~cross,
        "a": own & ~first & (now.cross < ROUNDING * now.own),
    }
    written = convolved & cross
    if masks["a"].any():
        masks["b"] = masks.pop("dt")
    if not masks["C"].any():
        masks["x"] = written
    elif written.any():
        masks.update(_written(probe, written, masks["C"], now))
    elif masks["z"].any():
        masks.update(_factors(probe, masks["z"], masks["C"]))
    masks["?"] = ~torch.stack(list(masks.values())).any(0)
    return {role: mask for role, mask in masks.items() if mask.any()}


def _written(probe: Probe, written: torch.Tensor, reading: torch.Tensor, now: Reach) -> Masks:
    """Distinguishes what the state is written with; with k and v, what reads it is called q instead of C."""
    blind = probe.reach(0, reading)
    if blind is None:
        return {}
    left = blind.own != 0
    if (written & left).any():
        return {"x": written & left, "B": written & ~left}
    normed = probe.reach(0, exact_norms=True)
    if normed is None:
        return {}
    v = written & (normed.first > 0.03 * now.first)
    k = written & ~v
    without_k, without_v = probe.reach(0, k, tokens=slice(1, 2)), probe.reach(0, v, tokens=slice(1, 2))
    if without_k is None or without_v is None or without_k.own[v].any() or not without_v.own[k].all():
        return {}
    return {"k": k, "v": v, "q": reading, "C": torch.zeros_like(reading)}


def _factors(probe: Probe, gate: torch.Tensor, product: torch.Tensor) -> Masks:
    """B and x of a gated convolution, where C is the gate.

    The two enter as a product, and only their order distinguishes them: models list B first.
    """
    places = product.nonzero().flatten()
    x = product.clone()
    x[places[: len(places) // 2]] = False
    b = product & ~x
    without_b, without_x = probe.reach(0, b), probe.reach(0, x)
    if without_b is None or without_x is None or without_b.own[x].any() or without_x.own[b].any():
        return {}
    if not (without_b.own[b].all() and without_x.own[x].all()):
        return {}
    return {"B": b, "x": x, "C": gate, "z": torch.zeros_like(gate)}


def fits(masks: Masks, probe: Probe) -> bool:
    """Whether these are all roles of a known kind of mixer, in numbers that agree with one another."""
    count = {role: int(mask.sum()) for role, mask in masks.items()}
    channels = probe.conv.in_channels
    match sorted(count):
        case ["a", "b"]:
            return count["a"] == count["b"]
        case ["B", "C", "x"]:
            return count["B"] == count["C"] == count["x"] == channels
        case ["x", "z"]:
            return count["x"] == count["z"] == channels
        case ["B", "C", "dt", "x", "z"]:
            written = count["x"] == count["z"] and count["B"] == count["C"]
            return written and count["x"] + 2 * count["B"] == channels and count["dt"] == _heads(probe.mixer)
        case ["k", "q", "v"] | ["k", "q", "v", "z"]:
            written = count["q"] == count["k"] and count.get("z", count["v"]) == count["v"]
            return written and 2 * count["k"] + count["v"] == channels
    return False


def _heads(mixer: nn.Module) -> int:
    """How many heads a state-space mixer has: each adds a bias of its own to its time steps."""
    steps = mixer._parameters.get("dt_bias")
    return 0 if steps is None else steps.numel()
