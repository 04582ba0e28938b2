"""Runs the skeleton once: which modules text runs through, what gradients reach, what is fused."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainer.common.errors import is_out_of_memory
from trainer.models.discovery.data_flow import DataFlow, DataFlowTracer
from trainer.models.discovery.fused_projections import SliceFinder, Slices
from trainer.models.discovery.grouping import Grouping
from trainer.models.discovery.mixer_projections import MixerFinder
from trainer.models.discovery.skeleton import BATCH, LENGTH, Skeleton

CAUSAL: dict[str, tuple[object, object]] = {
    "is_decoder": (False, True),
    "causal": (False, True),
    "attn_type": ("bi", "uni"),
}
"""Settings that let tokens attend to later ones: (bidirectional value, causal value)."""


@dataclass
class ProbeResult:
    """Observations of one forward pass. Names are full names of modules, or of parameters for `read`.

    A module of a repeated layer shows what its twin in the first such layer showed; experts in a list
    show what any of them showed.
    """

    failure: str = ""
    """Why the pass failed, if so; then nothing is known about any module."""
    called: set[str] = field(default_factory=set)
    by_keyword: set[str] = field(default_factory=set)
    misshapen: set[str] = field(default_factory=set)
    routers: set[str] = field(default_factory=set)
    """Linear subclasses that return more than a tensor."""
    unlike_lookup: set[str] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)
    """Linears and embeddings to whose output the logits have a gradient."""
    read: set[str] = field(default_factory=set)
    """Parameters that the logits have a gradient to, other than through a linear's or embedding's call."""
    parts: dict[str, Slices] = field(default_factory=dict)
    """Fused linears and their slices."""
    mixed: set[str] = field(default_factory=set)
    """Linears of which the rows have several roles; those without `parts` could not be split safely."""
    twins: dict[str, str] = field(default_factory=dict)
    flow: DataFlow = field(default_factory=DataFlow)
    non_causal_setting: str = ""
    """The setting of CAUSAL that makes logits depend on later tokens, if any."""

    def has(self, seen: set[str], name: str) -> bool:
        """Whether the module `name` is among the `seen`; True for all if nothing is known."""
        return self.failure != "" or one_name(self.twins.get(name, name)) in seen

    def has_parameter(self, seen: set[str], module: str, key: str) -> bool:
        return self.failure != "" or one_name(f"{self.twins.get(module, module)}.{key}") in seen


def one_name(name: str) -> str:
    """The name with `*` for every number but the layer's, since experts in a list are interchangeable."""
    first = re.search(r"\.\d+(\.|$)", name)
    if not first:
        return name
    return name[: first.end()] + re.sub(r"\b\d+\b", "*", name[first.end() :])


def probe_model(model: PreTrainedModel, grouping: Grouping, config: PretrainedConfig) -> ProbeResult:
    """Run `model` (on the meta device; unusable afterwards) as a skeleton and observe it.

    Its mode counts: with dropout there are no exact gradients, so no slices are found in training mode.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a model's own initialization draws at random: the map must not
            skeleton = Skeleton(model)
            finder, mixers = SliceFinder(skeleton), MixerFinder(skeleton)
            flow = DataFlowTracer(skeleton)
            for parent, linears, group in _parents(model, grouping, skeleton.twins):
                if group == "attention" or (group == "mlp" and not parent.rpartition(".")[2].isdigit()):
                    finder.watch(parent, linears, group)
                mixers.watch(parent, linears)
            logits = skeleton.run(**extra_inputs(config))
            flow.open = False
            suspects = [key for key, (value, _) in CAUSAL.items() if getattr(config, key, None) == value]
            non_causal_setting = suspects[0] if suspects and _sees_later_tokens(skeleton, logits) else ""
            reached, read = _gradients(skeleton, logits)
    except Exception as error:  # whatever a model's own code may raise on unusual inputs
        if is_out_of_memory(error):
            raise
        return ProbeResult(failure=f"{type(error).__name__}: {error}")
    return ProbeResult(
        called={one_name(name) for name in skeleton.called},
        by_keyword={one_name(name) for name in skeleton.by_keyword},
        misshapen=skeleton.misshapen,
        routers=skeleton.routers,
        unlike_lookup=skeleton.unlike_lookup,
        reached={one_name(name) for name in reached},
        read={one_name(name) for name in read},
        parts={**finder.found, **mixers.found},
        mixed=finder.mixed | mixers.mixed,
        twins=skeleton.twins,
        flow=flow.flow,
        non_causal_setting=non_causal_setting,
    )


def towers(grouping: Grouping, seen: ProbeResult) -> list[str]:
    """The highest modules that text never runs through: vision and audio towers, connectors, cross-attention.

    Where nothing was seen: models inside the model that do not hold the embedding of its text.
    """
    idle, live = [], {""}
    for name, module in grouping.modules.items():
        keys = dict(module.named_parameters(recurse=False))
        if seen.failure:
            runs = name in grouping.embedding
        else:
            runs = seen.has(seen.called, name) or any(seen.has_parameter(seen.read, name, key) for key in keys)
        if keys and runs:
            parts = name.split(".")
            live |= {".".join(parts[:end]) for end in range(len(parts) + 1)}
    for name, module in grouping.modules.items():
        wanted = PreTrainedModel if seen.failure else nn.Module
        if name not in live and name.rpartition(".")[0] in live and isinstance(module, wanted):
            idle += [name] * any(True for _ in module.parameters())
    return idle


def extra_inputs(config: PretrainedConfig) -> dict[str, Any]:
    """Inputs besides token ids that a text-only pass needs."""
    if config.model_type == "xmod":  # it has adapters per language, and no language by default
        return {"lang_ids": torch.zeros(BATCH, dtype=torch.long)}
    return {}


def _parents(model: PreTrainedModel, grouping: Grouping, twins: dict[str, str]) -> list[tuple[str, list[str], str]]:
    """Modules that hold linears, the linears, and their group; repeated layers left out."""
    holders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and name not in twins:
            holders[name.rpartition(".")[0], grouping.of(name)].append(name)
    return [(parent, linears, group) for (parent, group), linears in holders.items()]


def _sees_later_tokens(skeleton: Skeleton, logits: torch.Tensor) -> bool:
    """Whether the first of two tokens sees the second. Stand-ins of experts mix tokens: there it means nothing."""
    modules = dict(skeleton.model.named_modules())
    embedded = {
        y: y.shape.index(LENGTH)  # some hold the texts beside one another
        for name, y in skeleton.outputs.items()
        if isinstance(modules[name], nn.Embedding) and y.requires_grad and {*y.shape[:2]} == {BATCH, LENGTH}
    }
    if not embedded:
        return False
    grads = torch.autograd.grad(logits[:, 0].sum(), list(embedded), allow_unused=True, retain_graph=True)
    pairs = zip(grads, embedded.values(), strict=True)
    return any(grad is not None and bool(grad.select(axis, 1).any()) for grad, axis in pairs)


def _gradients(skeleton: Skeleton, logits: torch.Tensor) -> tuple[set[str], set[str]]:
    """Outputs and parameters that the logits have a gradient to: those in their graph.

    It is walked, not computed: the gradient of an expert's weight is as large as the weight.
    """
    nodes: set[Any] = set()
    waiting = [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    leaves = {id(node.variable) for node in nodes if hasattr(node, "variable")}
    outputs = {name for name, output in skeleton.outputs.items() if output.requires_grad and output.grad_fn in nodes}
    return outputs, {name for name, p in skeleton.model.named_parameters() if p.requires_grad and id(p) in leaves}
