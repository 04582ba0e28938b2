"""Checks that a checkpoint's tensors match its model by name and shape, from file headers and the module map."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trainer.common.errors import Issue
from trainer.models.module_map import ModuleKind, ModuleMap
from trainer.models.safetensors_header import Tensor
from trainer.models.weight_files import FIELD, Index, some

_LAYER = re.compile(r"(.*?\.\d+)\.")
"""A name up to the number of its layer."""


@dataclass(frozen=True)
class Weight:
    """A weight that the model expects."""

    name: str
    module: str
    shape: tuple[int, ...]
    kind: ModuleKind

    @property
    def is_plain(self) -> bool:
        """Whether checkpoints hold it as one tensor of this shape: experts and state-space parameters vary."""
        is_usual = self.kind.class_name in ("Linear", "Conv1D", "Embedding") or self.kind.class_name.endswith("Norm")
        return is_usual and not self.kind.experts


def tensor_issues(
    name: str, tensors: Mapping[str, Tensor], index: Index | None, module_map: ModuleMap
) -> list[Issue]:
    """Weights that are missing from the files or have a different shape there."""
    weights = list(_weights(module_map))
    issues = _misfits(name, tensors, weights)
    held = _held(tensors)
    if module_map.own_names and not any(_is_held(weight, held) for weight in weights if weight.is_plain):
        problem = (
            f"The tensor names of {name} are not those of a {module_map.model_type} model: "
            f"{min(tensors, default='none')[:160]} and the like, and no {weights[0].name}."
        )
        return [*issues, Issue(FIELD, problem, "Use the repository with weights in transformers' format.")]
    if lost := _lost(tensors, index, weights, module_map):
        problem = f"The weights of {name} lack {some(lost)}, which its config.json asks for."
        issues.append(Issue(FIELD, problem, "Download the weights again, with their own config.json."))
    return issues


def _weights(module_map: ModuleMap) -> Iterator[Weight]:
    """Every weight by its name, tied ones once."""
    for kind in module_map.kinds:
        if kind.slice_of is None and kind.tied_to is None:
            bare = kind.class_name == "Parameter"
            for name, shape in zip(kind.modules, kind.shapes, strict=True):
                stored = shape[::-1] if kind.class_name == "Conv1D" else shape
                yield Weight(name if bare else f"{name}.weight", name, stored, kind)


def _misfits(name: str, tensors: Mapping[str, Tensor], weights: Sequence[Weight]) -> list[Issue]:
    wrong: list[str] = []
    turned: list[str] = []
    for weight in weights:
        tensor = tensors.get(weight.name)
        if tensor is None or not _is_unpacked(weight.name, tensors) or tensor.shape == weight.shape:
            continue
        same_sizes = sorted(tensor.shape) == sorted(weight.shape)
        if same_sizes and not weight.is_plain:
            continue
        expected = _shape(weight.shape)
        text = f"{weight.name} is {_shape(tensor.shape)} in the file, but {expected} according to config.json"
        (turned if same_sizes else wrong).append(text)
    issues = []
    if wrong:
        problem = f"The weights of {name} do not fit its config.json: {some(wrong, 2, '; ')}."
        issues.append(Issue(FIELD, problem, "Use the config.json that was published with these weights."))
    if turned:
        problem = f"The weights of {name} are stored transposed: {some(turned, 2, '; ')}."
        issues.append(Issue(FIELD, problem, "Use weights that were saved by transformers."))
    return issues


def _is_unpacked(key: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensor is the weight itself: a packed one has another shape, and with bitsandbytes any type."""
    return tensors[key].dtype in ("F64", "F32", "F16", "BF16") and f"{key}.absmax" not in tensors


def _lost(
    tensors: Mapping[str, Tensor], index: Index | None, weights: Sequence[Weight], module_map: ModuleMap
) -> list[str]:
    """Names of weights that are in no file.

    A checkpoint may use other names than the model (transformers renames, merges and splits as it loads), and
    quantized weights have names of their own. So a weight is lost only if the index promises it, if its whole layer
    is missing, or if the checkpoint is seen to use the model's own names for weights of its kind.
    """
    layers = {found[1] for key in tensors if (found := _LAYER.match(key))}
    stacks = {layer.rpartition(".")[0] for layer in layers}
    promised = index.files if index is not None else {}
    by_name = _absent(tensors, weights, module_map)
    return [
        weight.name
        for weight in weights
        if weight.name not in tensors
        and (
            weight.name in promised
            or weight.name in by_name
            or ((at := _LAYER.match(weight.name)) and at[1] not in layers and at[1].rpartition(".")[0] in stacks)
        )
    ]


def _absent(tensors: Mapping[str, Tensor], weights: Sequence[Weight], module_map: ModuleMap) -> set[str]:
    """Names of plain weights that are absent, though the checkpoint uses the model's names for at least half of them.

    Where transformers may rename, a kind that is absent as a whole is lost only if no tensor of unknown name is left
    that could be it.
    """
    held = _held(tensors)
    tied = {kind.tied_to: kind.modules for kind in module_map.kinds if kind.tied_to is not None}
    plain = [weight for weight in weights if weight.is_plain and not _is_shared(weight.kind)]
    absent = [weight for weight in plain if not _is_held(weight, held)]
    absent = [weight for weight in absent if not held.intersection(tied.get(weight.kind.name, ()))]
    if 2 * len(absent) > len(plain):
        return set()
    if module_map.own_names:
        return {weight.name for weight in absent}
    seen = {weight.kind.name for weight in plain if _is_held(weight, held)}
    unknown = _unknown(tensors, module_map)
    return {
        weight.name
        for weight in absent
        if weight.kind.name in seen or (_in_layers(weight.name), len(weight.shape)) not in unknown
    }


def _is_shared(kind: ModuleKind) -> bool:
    """Whether several of its modules share one weight, which a checkpoint may hold once."""
    return kind.parameters < sum(math.prod(shape) for shape in kind.shapes)


def _held(tensors: Mapping[str, Tensor]) -> set[str]:
    """Every module that has a tensor other than a bias, and its parents; `.head` for a head under any prefix."""
    held: set[str] = set()
    for key in tensors:
        path = key.rpartition(".")[0] if not key.endswith(".bias") else ""
        if path.count(".") == 1:
            held.add(path[path.index(".") :])
        while path and path not in held:
            held.add(path)
            path = path.rpartition(".")[0]
    return held


def _is_held(weight: Weight, held: set[str]) -> bool:
    """Judges by name; transformers adds the base model's prefix to names (`h.0`), or removes it (`.lm_head`)."""
    return not held.isdisjoint((weight.module, weight.module.partition(".")[2], f".{weight.module}"))


def _unknown(tensors: Mapping[str, Tensor], module_map: ModuleMap) -> set[tuple[bool, int]]:
    """In layers or not, and number of dimensions, of the tensors whose names the model lacks."""
    known = {name for kind in module_map.kinds for name in kind.modules}
    known |= {name.partition(".")[2] for name in known}
    return {
        (_in_layers(key), len(tensor.shape))
        for key, tensor in tensors.items()
        if key not in known and key.rpartition(".")[0] not in known
    }


def _in_layers(name: str) -> bool:
    return _LAYER.match(name) is not None


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "a single number"
