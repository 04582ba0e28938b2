"""Traces how data flows between a model's modules, by walking the autograd graph of its skeleton backwards.

A module's input comes from the outputs of earlier modules. The graph is followed back from the input, operation by
operation, to the nearest of these outputs. That shows which modules run in sequence, which in parallel, and where
residuals are added. Names play no role.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from trainer.models.discovery.skeleton import Skeleton

INPUT = ""
"""Stands for the layer's own input among sources."""

Summands = tuple[frozenset[str], ...]
"""The summands of a value: for each, the names of the modules whose outputs it is computed from."""

_SAME = {"View", "UnsafeView", "ReshapeAlias", "Alias", "Clone", "ToCopy", "Transpose", "Permute", "T", "Squeeze"}
_SAME |= {"Unsqueeze", "Expand", "Slice", "NativeDropout", "Mul", "Div"}
"""Operations that pass their only data input on, reshaped or scaled at most."""


_EXPERT = re.compile(r"(expert[^.]*\.)\d+(\.|$)", re.IGNORECASE)


@dataclass
class Call:
    """A call of a module with its own parameters, in one run of a layer or outside the layers."""

    module: str
    layer: str
    """Full name of the layer that was running; empty outside the layers."""
    takes: Summands
    """Summands of its first input."""
    beside: frozenset[str] = frozenset()
    """Sources of its other inputs."""
    again: bool = False
    """It ran again on a different input, so it has no single place in the data flow."""


@dataclass
class DataFlow:
    """Calls of a whole forward pass in order, without repeated layers."""

    calls: list[Call] = field(default_factory=list)
    gives: dict[str, Summands] = field(default_factory=dict)
    """Output of every layer that ran, by its full name."""
    fed: dict[str, Summands] = field(default_factory=dict)
    """Input of every layer that ran, in terms of modules outside the layers and of layers."""


class DataFlowTracer:
    """Hooks the layers of a skeleton and all its modules, and records their inputs while it runs."""

    def __init__(self, skeleton: Skeleton) -> None:
        self.skeleton = skeleton
        self.flow = DataFlow()
        self.open = True
        """Set it to False once the pass is over: a backward pass may run modules again."""
        self._layer = ""
        self._entry: object = None
        self._recording = True
        self._made: dict[object, str] = {}
        self._running: dict[str, Call] = {}
        """Calls of the run of a layer, or outside the layers, that is being recorded."""
        self._outside = self._running
        layers = set(layers_of(skeleton.model))
        wrapped: set[int] = set()
        for name, module in skeleton.model.named_modules():
            if name in skeleton.twins:
                continue
            if name in layers:
                self._watch(name, module, self._enter, self._leave)
            elif is_unit(module) and id(module) not in wrapped:
                self._watch(one_expert(name), module, self._call, self._result)
            elif conv := _only_convolution(module):
                wrapped.add(id(module.get_submodule(conv)))
                self._watch(f"{name}.{conv}", module, self._call, self._result)

    def _watch(self, name: str, module: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> None:
        def pre(_module: nn.Module, args: Any, kwargs: Any) -> None:
            if self.open and not self.skeleton.replay:
                before(name, _nodes((args, kwargs)))

        def post(_module: nn.Module, _args: Any, output: Any) -> None:
            if self.open and not self.skeleton.replay:
                after(name, _nodes(output))

        module.register_forward_pre_hook(pre, with_kwargs=True)
        module.register_forward_hook(post)

    def _enter(self, name: str, inputs: list[Any]) -> None:
        """Start recording a layer, unless an earlier run of it was traced."""
        fed = self._summands(inputs[0]) if inputs else ()
        self._layer, self._entry, self._running = name, inputs[0] if inputs else None, {}
        if not self.flow.fed.get(name):
            self.flow.fed[name] = fed
            self.flow.calls = [call for call in self.flow.calls if call.layer != name]
            self._recording = True
        else:
            self._recording = False

    def _leave(self, name: str, outputs: list[Any]) -> None:
        if outputs and self._recording:
            self.flow.gives[name] = self._summands(outputs[0])
        self._layer, self._entry, self._running, self._recording = "", None, self._outside, True
        if outputs:
            self._made[outputs[0]] = name

    def _call(self, name: str, inputs: list[Any]) -> None:
        if not self._recording:
            return
        takes = self._summands(inputs[0]) if inputs else ()
        call = Call(name, self._layer, takes, frozenset().union(*map(self._sources, inputs[1:])))
        first = self._running.setdefault(name, call)
        if first is call:
            self.flow.calls.append(call)
        elif call.takes and (call.takes, call.beside) != (first.takes, first.beside):
            first.again = True

    def _result(self, name: str, outputs: list[Any]) -> None:
        for node in outputs:
            if node is not self._entry:
                self._made[node] = name

    def _source(self, node: object) -> str | None:
        return INPUT if node is self._entry else self._made.get(node)

    def _summands(self, node: Any) -> Summands:
        found: list[frozenset[str]] = []
        waiting = [node]
        while waiting:
            node = waiting.pop()
            name, parents, operation = self._source(node), _parents(node), _operation(node)
            if name is not None:
                found.append(frozenset({name}))
            elif operation == "Add" or (operation in _SAME and len(parents) == 1):
                waiting += reversed(parents)
            else:
                found.append(self._sources(node))
        return tuple(summand for summand in found if summand)

    def _sources(self, node: Any) -> frozenset[str]:
        """The nearest modules that the value of `node` is computed from."""
        found, seen, waiting = set(), {node}, [node]
        while waiting:
            node = waiting.pop()
            name = self._source(node)
            if name is not None:
                found.add(name)
                continue
            fresh = [parent for parent in _parents(node) if parent not in seen]
            seen.update(fresh)
            waiting += fresh
        return frozenset(found)


def layers_of(model: nn.Module) -> list[str]:
    """Full names of the layers: items of the outermost module lists that contain modules with parameters."""
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and not any(part.isdigit() for part in name.split("."))
    ]
    return [
        f"{name}.{number}"
        for name, stack in stacks
        for number, layer in enumerate(stack)
        if not is_unit(layer) and any(True for _ in layer.parameters())
    ]


def one_expert(name: str) -> str:
    """The name with `*` instead of an expert's number, since experts in a list are interchangeable."""
    return _EXPERT.sub(r"\1*\2", name)


def is_unit(module: nn.Module) -> bool:
    """Whether a module holds parameters while none of its submodules does."""
    own = any(parameter is not None for parameter in module._parameters.values())
    return own and not any(True for child in module.children() for _ in child.parameters())


def _only_convolution(module: nn.Module) -> str:
    """Name of a module's only parameterized submodule if that is a convolution, which many never call."""
    holders = [
        name for name, inner in module.named_modules() if any(p is not None for p in inner._parameters.values())
    ]
    return (
        holders[0]
        if len(holders) == 1 and holders[0] and isinstance(module.get_submodule(holders[0]), nn.Conv1d)
        else ""
    )


def _nodes(value: Any) -> list[Any]:
    """Autograd nodes of the tensors in `value`, in order."""
    if isinstance(value, torch.Tensor):
        return [] if value.grad_fn is None else [value.grad_fn]
    if isinstance(value, dict):
        return _nodes(list(value.values()))
    return [node for item in value for node in _nodes(item)] if isinstance(value, list | tuple) else []


def _operation(node: Any) -> str:
    return str(node.name()).rstrip("0123456789").removesuffix("Backward")


def _parents(node: Any) -> list[Any]:
    """Parent nodes that carry data; without weights, which end in an AccumulateGrad."""
    parents = [parent for parent, _ in node.next_functions if parent is not None]
    return [parent for parent in parents if parent.next_functions]


def stack_of(layer: str) -> str:
    """The list of layers that holds this one; empty if it is not a layer."""
    head, _, number = layer.rpartition(".")
    return head if number.isdigit() else ""


def names_of(summands: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*summands)
