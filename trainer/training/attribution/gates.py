"""Scalar gates: one for every module that a run trained, from the base model (0) to the trained one (1).

A gate moves what training moved on a straight line: B of a LoRA from zero, whose A stays as it was learned, so that
the update is multiplied by the gate; copies, new rows and biases from their values before training. A slice of a
fused module has a gate of its own, which moves its rows of B alone. DoRA's gradient is not that of its loss, since it
treats a norm as a constant, so its gate multiplies what the module adds to its output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import nn

from trainer.models.module_map import ModuleKind, ModuleMap
from trainer.planning.plan import Plan
from trainer.planning.targets import Slice, Target
from trainer.training import adapter

ZERO_START = ("lora_B", "lora_embedding_B")
STAYING = ("lora_A", "lora_embedding_A", "lora_magnitude_vector")


class Gated(Protocol):
    """Something between its value before training and the one after it."""

    def set(self, gate: float) -> None: ...

    def slope(self) -> float:
        """Derivative by the gate of whatever was passed backward."""


@dataclass(frozen=True)
class Tensor:
    """A tensor that training moved, or the entries of it that belong to one gate."""

    parameter: nn.Parameter
    start: torch.Tensor
    end: torch.Tensor
    where: torch.Tensor | None = None
    """Mask of the entries; None for all."""

    def set(self, gate: float) -> None:
        value = torch.lerp(self.start, self.end, gate)
        now = self.parameter.data
        now.copy_(value if self.where is None else value.where(self.where, now))

    def slope(self) -> float:
        if self.parameter.grad is None:  # nothing passed through it
            return 0.0
        product = self.parameter.grad * (self.end - self.start)
        return float((product if self.where is None else product * self.where).sum(dtype=torch.float64))


class Output:
    """What a module with LoRA adds to its output, or to some of its features."""

    def __init__(self, module: Any, where: torch.Tensor | None) -> None:
        """`module`: PEFT's layer. `where`: mask of the output's features; None for all."""
        device = module.lora_B["default"].weight.device
        self._gate = torch.ones((), device=device, requires_grad=True)
        self._where = where
        self._plain: torch.Tensor | None = None
        module.base_layer.register_forward_hook(self._keep)
        module.register_forward_hook(self._scale)

    def set(self, gate: float) -> None:
        self._gate.data.fill_(gate)
        self._gate.grad = None

    def slope(self) -> float:
        return 0.0 if self._gate.grad is None else float(self._gate.grad)

    def _keep(self, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        self._plain = output

    def _scale(self, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        assert self._plain is not None
        plain, self._plain = self._plain, None
        gate = self._gate.to(output.dtype)
        return plain + (output - plain) * (gate if self._where is None else gate.where(self._where, 1.0))


@dataclass(frozen=True)
class Gate:
    """The gate of one module, or of one slice of it."""

    module: str
    kind: str
    treatment: str
    layer: int | None
    target: Target
    rows: tuple[tuple[int, int], ...] | None
    """Of a slice: its output features, as [start, end) ranges."""
    moved: tuple[Gated, ...]

    def set(self, value: float) -> None:
        for part in self.moved:
            part.set(value)

    def slope(self) -> float:
        return sum(part.slope() for part in self.moved)


def starts(model: PeftModel) -> dict[nn.Parameter, torch.Tensor]:
    """Where each trained parameter starts, without what stays. Call it before the learned weights are loaded."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not any(f".{part}." in name for part in STAYING):
            start = parameter.detach().clone()
            found[parameter] = start.zero_() if any(f".{part}." in name for part in ZERO_START) else start
    return found


def gates(
    model: PeftModel, plan: Plan, module_map: ModuleMap, start: Mapping[nn.Parameter, torch.Tensor]
) -> list[Gate]:
    """The gates of a trained model, all at 1. `start`: what `starts` found."""
    found = []
    for target in plan.targets:
        for kind, part in _kinds(target, module_map):
            moved = tuple(_moved(model, target, part, start))
            layer = dict(zip(kind.modules, kind.layers, strict=False)).get(target.module)
            rows = None if part is None else part.rows
            found.append(Gate(target.module, kind.name, target.treatment, layer, target, rows, moved))
    return found


def set_all(found: Iterable[Gate], value: float) -> None:
    for gate in found:
        gate.set(value)


def _kinds(target: Target, module_map: ModuleMap) -> Iterator[tuple[ModuleKind, Slice | None]]:
    """The kinds that a target trains: its own, or those of its slices."""
    if not target.slices:
        yield target.kind, None
    kinds = module_map.slices(target.kind.slice_of or "")
    for part in target.slices:
        yield next(kind for kind in kinds if kind.rows == part.rows), part


def _moved(
    model: PeftModel, target: Target, part: Slice | None, start: Mapping[nn.Parameter, torch.Tensor]
) -> Iterator[Gated]:
    module: Any = model.base_model.model.get_submodule(adapter.holder(target))
    is_dora = "default" in getattr(module, "lora_magnitude_vector", {})
    if is_dora:
        out = module.lora_B["default"].weight
        yield Output(module, None if part is None else _mask(out[:, 0], part))
    for parameter in adapter.parameters(model, target):
        if parameter in start and not (is_dora and parameter.ndim == 2):
            where = None if part is None else _mask(parameter, part)
            yield Tensor(parameter, start[parameter], parameter.detach().clone(), where)


def _mask(values: torch.Tensor, part: Slice) -> torch.Tensor:
    """A slice's entries of a bias, (out,), or of B, (out, r)."""
    mask = torch.zeros_like(values, dtype=torch.bool)
    for first, end in part.rows:
        if values.ndim == 1:
            mask[first:end] = True
        else:
            mask[first:end, part.columns[0] : part.columns[1]] = True
    return mask
