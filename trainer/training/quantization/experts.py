"""Expert weights in NF4: quantized while loading, dequantized only while their layer computes.

transformers 5 keeps all experts of a layer in one bare parameter, and bitsandbytes quantizes linears only. Here such
a parameter is packed to NF4 with double quantization (arXiv:2305.14314), like the linears beside it. A stand-in of
the same shape, dtype and device that takes no memory holds its place. Hooks put the dequantized weight there for the
forward pass of the module and take it away again, so whatever reads the parameter, PEFT's ParamWrapper included, sees
an ordinary one. Autograd would keep those weights for the backward pass, every layer's at once: what it saves of them
is replaced by a reference from which they are dequantized again.

`bitsandbytes.nn.parametrize` does not go together with LoRA on experts in PEFT 0.21: the wrapper leaves its own
parametrization in place after a pass, and the next pass fails on it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit, quantize_blockwise
from torch import nn
from torch.nn.utils import parametrize
from torch.utils import checkpoint

from trainer.planning.memory.weights import BLOCK, BLOCK_OF_SCALES

_WEIGHTS, _SCOPE = "nf4_expert_weights", "nf4_scope"
"""Attributes of the module that owns the parameters, and of the one whose forward pass uses them."""


@dataclass(eq=False)
class ExpertWeight:
    """One experts' parameter in NF4."""

    packed: torch.Tensor
    """Two weights per byte."""
    state: QuantState
    stand_in: nn.Parameter

    @classmethod
    def quantize(cls, weight: torch.Tensor) -> ExpertWeight:
        """Pack `weight`, of any shape, in float32, bfloat16 or float16, on the device that it is on."""
        packed, state = _pack(weight.contiguous())
        # NaN, so that computing with it by mistake does not go unnoticed
        empty = torch.full((1,) * weight.dim(), torch.nan, dtype=weight.dtype, device=weight.device)
        stand_in = nn.Parameter(empty.expand(weight.shape), requires_grad=False)
        stand_in._is_hf_initialized = True  # type: ignore[attr-defined]
        return cls(packed, state, stand_in)

    @torch.no_grad()
    def dequantize(self) -> torch.Tensor:
        """The dequantized weight, in its original shape and dtype."""
        return dequantize_4bit(self.packed, self.state)  # type: ignore[no-any-return]

    def tensors(self) -> dict[str, list[torch.Tensor]]:
        """All tensors held in memory: packed weights and quantization constants."""
        state, nested = self.state, self.state.state2
        return {
            "packed": [self.packed],
            "constants": [state.absmax, state.code, state.offset, nested.absmax, nested.code],
        }


def _pack(weight: torch.Tensor) -> tuple[torch.Tensor, QuantState]:
    """The result of `quantize_4bit` for the whole weight, computed one expert at a time.

    On a CPU, `quantize_4bit` needs many times the memory of its input.
    """
    stacked = weight.dim() > 2 and weight[0].numel() % BLOCK == 0  # else a block would belong to two experts
    parts = [quantize_4bit(part, quant_type="nf4") for part in (weight if stacked else [weight])]
    scales = torch.cat([state.absmax for _, state in parts])
    offset = scales.mean()
    absmax, nested = quantize_blockwise(scales - offset, blocksize=BLOCK_OF_SCALES)
    first = parts[0][1]
    state = QuantState(
        absmax=absmax,
        shape=weight.shape,
        code=first.code,
        blocksize=first.blocksize,
        quant_type="nf4",
        dtype=weight.dtype,
        offset=offset,
        state2=nested,
    )
    return torch.cat([packed for packed, _ in parts]), state


@dataclass
class _Scope:
    """The quantized parameters to dequantize while one module runs, and its saved-tensor hooks."""

    owners: list[nn.Module]
    handles: list[Any] = field(default_factory=list)
    saving: list[_SavedWeights] = field(default_factory=list)

    def weights(self) -> Iterator[tuple[nn.Module, str, ExpertWeight]]:
        for owner in self.owners:
            for name, weight in getattr(owner, _WEIGHTS).items():
                yield owner, name, weight


def quantize_experts(model: nn.Module, names: Iterable[str], device: torch.device | str | None = None) -> None:
    """Quantize the parameters `names` of a loaded model, one after the other, each on `device` if one is given.

    A model in main memory thus gets its experts onto a GPU with room for one unquantized parameter. What is quantized
    already stays as it is. `names`: full names, from `planning/memory/weights.py`.
    """
    for full_name in names:
        path, _, name = full_name.rpartition(".")
        owner = model.get_submodule(path)
        if name not in getattr(owner, _WEIGHTS, {}):
            replace_parameter(model, full_name, owner.get_parameter(name).data.to(device))


def dequantize_experts(model: nn.Module) -> None:
    """Turn quantized experts back into ordinary parameters, with the values that training computed with.

    Needed for merging: PEFT adds LoRA to the parameter, and fails on a stand-in.
    """
    for module in list(model.modules()):
        scope: _Scope | None = module.__dict__.pop(_SCOPE, None)
        for handle in scope.handles if scope else ():
            handle.remove()
    for owner, name, weight in quantized_experts(model).values():
        _place(owner, name, nn.Parameter(weight.dequantize(), requires_grad=False))
        owner.__dict__.pop(_WEIGHTS, None)


def quantized_experts(model: nn.Module) -> dict[str, tuple[nn.Module, str, ExpertWeight]]:
    """The quantized parameters by their full names: the module that owns each, its name there, its weight."""
    return {
        f"{path}.{name}": (module, name, weight)
        for path, module in model.named_modules()
        for name, weight in getattr(module, _WEIGHTS, {}).items()
    }


def replace_parameter(model: nn.Module, full_name: str, value: torch.Tensor) -> None:
    """Quantize `value` and replace the parameter with it."""
    path, _, name = full_name.rpartition(".")
    owner = model.get_submodule(path)
    if not hasattr(owner, _WEIGHTS):
        setattr(owner, _WEIGHTS, {})
        _open_scope(_reader(model, path, name), owner)
    weight = getattr(owner, _WEIGHTS)[name] = ExpertWeight.quantize(value)
    _place(owner, name, weight.stand_in)


def _reader(model: nn.Module, path: str, name: str) -> nn.Module:
    """The module whose forward pass reads the parameter: its owner, or the one around it (DBRX)."""
    owner = model.get_submodule(path)
    code = inspect.unwrap(type(owner).forward).__code__
    return owner if name in code.co_names else model.get_submodule(path.rpartition(".")[0])


def _open_scope(reader: nn.Module, owner: nn.Module) -> None:
    scope: _Scope | None = getattr(reader, _SCOPE, None)
    if scope is not None:
        scope.owners.append(owner)
        return
    scope = _Scope([owner])
    setattr(reader, _SCOPE, scope)
    # a checkpoint's recomputation stops in the middle of a layer by raising, and the weights must go then, too
    scope.handles += [
        reader.register_forward_pre_hook(_enter),
        reader.register_forward_hook(_leave, always_call=True),
    ]


def _enter(reader: nn.Module, _inputs: Any) -> None:
    scope: _Scope = getattr(reader, _SCOPE)
    for owner, name, weight in scope.weights():
        _place(owner, name, nn.Parameter(weight.dequantize(), requires_grad=False))
    # torch has no public name for the hooks in force, nor below for what parametrize has cached
    others = torch._C._autograd._top_saved_tensors_default_hooks(False)
    # a checkpoint keeps nothing of its first pass, and drops what it made again as soon as the layer is done
    checkpointed = others is not None and others[0].__module__ == checkpoint.__name__
    if torch.is_grad_enabled() and not checkpointed:
        saving = _SavedWeights(scope, *(others or (_as_it_is, _as_it_is)))
        saving.__enter__()
        scope.saving.append(saving)


def _leave(reader: nn.Module, _inputs: Any, _output: Any) -> None:
    scope: _Scope = getattr(reader, _SCOPE)
    if scope.saving:
        scope.saving.pop().__exit__()
    for owner, name, weight in scope.weights():
        _place(owner, name, weight.stand_in)


def _place(owner: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Set the parameter, or the original below PEFT's parametrization while LoRA is active."""
    if parametrize.is_parametrized(owner, name):
        owner.parametrizations[name].original = parameter  # type: ignore[index, union-attr]
    else:
        setattr(owner, name, parameter)


def _as_it_is(saved: Any) -> Any:
    return saved


class _SavedWeights(torch.autograd.graph.saved_tensors_hooks):
    """Saves how to recompute a weight instead of the weight; other tensors go to the enclosing hooks."""

    def __init__(self, scope: _Scope, pack_other: Callable[[Any], Any], unpack_other: Callable[[Any], Any]) -> None:
        made: WeakValueDictionary[tuple[int, str, bool], _Rebuilt] = WeakValueDictionary()

        def pack(tensor: torch.Tensor) -> Any:
            storage = tensor.untyped_storage()._cdata
            for owner, name, weight in scope.weights():
                for whole, changes in _whole(owner, name):
                    if whole.untyped_storage()._cdata == storage:
                        key = (id(owner), name, bool(changes))
                        rebuilt = made.get(key) or _Rebuilt(weight, changes)
                        made[key] = rebuilt
                        return _View(rebuilt, tensor.size(), tensor.stride(), tensor.storage_offset())
            return pack_other(tensor)

        super().__init__(pack, lambda saved: saved.tensor() if isinstance(saved, _View) else unpack_other(saved))


def _whole(owner: nn.Module, name: str) -> Iterator[tuple[torch.Tensor, list[nn.Module]]]:
    """The dequantized weight, and the one with PEFT's LoRA added."""
    if not parametrize.is_parametrized(owner, name):
        yield owner.get_parameter(name), []
        return
    changes: Any = owner.parametrizations[name]  # type: ignore[index]
    yield changes.original, []
    merged = parametrize._cache.get((id(owner), name))
    if merged is not None:
        yield merged, list(changes)


@dataclass(eq=False)
class _Rebuilt:
    """A weight recomputed in the backward pass, kept as long as a pending node needs it."""

    weight: ExpertWeight
    changes: list[nn.Module]
    value: torch.Tensor | None = None

    @torch.no_grad()
    def make(self) -> torch.Tensor:
        if self.value is None:
            value = self.weight.dequantize()
            for change in self.changes:
                value = change(value)
            self.value = value
        return self.value


@dataclass(eq=False)
class _View:
    """A saved view of a weight: a part of it, or its transpose."""

    rebuilt: _Rebuilt
    size: torch.Size
    stride: tuple[int, ...]
    offset: Any

    def tensor(self) -> torch.Tensor:
        return self.rebuilt.make().as_strided(self.size, self.stride, self.offset)
