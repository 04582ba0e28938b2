"""How data flows between the modules of a model: measured on its skeleton, by walking back the graph of autograd.

Whatever reaches a module comes from the outputs of modules before it. From its input the graph is followed
back, operation by operation, to the nearest of these: so it shows which modules follow one another, which
work side by side, and where something is added to what went around them. Nothing is told by names.
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
"""Stands among sources for the input of the layer itself."""

Summands = tuple[frozenset[str], ...]
"""What a value is the sum of: for each summand the names of the modules whose outputs it is made from."""

_SAME = {"View", "UnsafeView", "ReshapeAlias", "Alias", "Clone", "ToCopy", "Transpose", "Permute", "T", "Squeeze"}
_SAME |= {"Unsqueeze", "Expand", "Slice", "NativeDropout", "Mul", "Div"}
"""Operations that, with one input that data flows through, pass this input on, moved or scaled at most."""


_EXPERT = re.compile(r"(expert[^.]*\.)\d+(\.|$)", re.IGNORECASE)


@dataclass
class Call:
    """A module with parameters of its own that ran, within one run of a layer or outside all layers."""

    module: str
    layer: str
    """Full name of the layer that was running; empty outside the layers."""
    takes: Summands
    """Of its first input."""
    beside: frozenset[str] = frozenset()
    """Sources of its other inputs."""
    again: bool = False
    """It ran once more, on something else: then its place in the flow is not one place."""


@dataclass
class DataFlow:
    """Calls of a whole pass, in their order, repeated layers left out."""

    calls: list[Call] = field(default_factory=list)
    gives: dict[str, Summands] = field(default_factory=dict)
    """Output of every layer that ran, by its full name."""
    fed: dict[str, Summands] = field(default_factory=dict)
    """Input of every layer that ran, in terms of modules outside the layers and of layers."""


class DataFlowTracer:
    """Watches the layers of a skeleton, and the modules in and around them, while it runs."""

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
        """Start to record a layer, unless a run of it was recorded that data could be followed through."""
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
        """The nearest modules that the value of `node` is made from."""
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
    """Full names of the layers: what stands in the outermost lists of modules, and holds modules with parameters."""
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
    """The name with `*` for the number of an expert in a list: they stand for one another."""
    return _EXPERT.sub(r"\1*\2", name)


def is_unit(module: nn.Module) -> bool:
    """Whether a module holds parameters, and none of the modules in it does."""
    own = any(parameter is not None for parameter in module._parameters.values())
    return own and not any(True for child in module.children() for _ in child.parameters())


def _only_convolution(module: nn.Module) -> str:
    """Name, in a wrapper, of the convolution that is all it holds: many read its weight and never call it."""
    holders = [
        name for name, inner in module.named_modules() if any(p is not None for p in inner._parameters.values())
    ]
    return (
        holders[0]
        if len(holders) == 1 and holders[0] and isinstance(module.get_submodule(holders[0]), nn.Conv1d)
        else ""
    )


def _nodes(value: Any) -> list[Any]:
    """Graph nodes of the tensors in `value`, first things first."""
    if isinstance(value, torch.Tensor):
        return [] if value.grad_fn is None else [value.grad_fn]
    if isinstance(value, dict):
        return _nodes(list(value.values()))
    return [node for item in value for node in _nodes(item)] if isinstance(value, list | tuple) else []


def _operation(node: Any) -> str:
    return str(node.name()).rstrip("0123456789").removesuffix("Backward")


def _parents(node: Any) -> list[Any]:
    """Nodes that data flows in from: weights, which end in an AccumulateGrad, are none."""
    parents = [parent for parent, _ in node.next_functions if parent is not None]
    return [parent for parent in parents if parent.next_functions]


def stack_of(layer: str) -> str:
    """The list of layers that holds this one; empty for what is no layer."""
    head, _, number = layer.rpartition(".")
    return head if number.isdigit() else ""


def names_of(summands: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*summands)
