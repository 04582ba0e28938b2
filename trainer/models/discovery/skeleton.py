"""A model of real shape that runs without its weights, to measure what its modules do.

Every linear and embedding of a model on the `meta` device gets a stand-in forward that needs no
memory: seeded noise of the right shape plus a rank-one image of the input, so that gradients still
flow. What is left (norms, rotary tables, routers, convolutions) is small and becomes real. Layers that
repeat an earlier one pass their input on. So a forward pass of a 14B model takes a fraction of a second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainer.models.discovery.repeated_layers import repeated_layers
from trainer.models.discovery.short_scans import short_chunks

BATCH, LENGTH = 4, 2
REAL_LIMIT = 2**18
"""Parameters up to this many elements become real; a larger one is a single zero, expanded."""

Forward = Callable[..., Any]
_EXPERTS = re.compile("expert|moe", re.IGNORECASE)


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """(out, in) of a Linear or Conv1D."""
    rows, columns = module.get_parameter("weight").shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


class Noise:
    """Slices of one seeded pool of normal values: the same everywhere, and nearly free."""

    def __init__(self) -> None:
        # Small enough that no model's clamps bite, not even on twice the values.
        self.pool = 0.5 * torch.randn(2**20, generator=torch.Generator().manual_seed(0))
        self.offset = 0

    def take(self, *shape: int) -> torch.Tensor:
        count = torch.Size(shape).numel()
        if count + 97 > self.pool.numel():
            self.pool = self.pool.repeat(count // self.pool.numel() + 2)
        if self.offset + count > self.pool.numel():
            self.offset = self.offset % 97
        values = self.pool[self.offset : self.offset + count].view(*shape)
        self.offset += count
        return values


class Skeleton:
    """A model whose linears, embeddings and large experts are stand-ins; see the module docstring."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Takes over `model`, which is on the `meta` device and of no other use afterwards."""
        self.model = model
        self.noise = Noise()
        self.replay = False
        self.override: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        """Latest output of every linear and embedding that ran."""
        self.called: set[str] = set()
        """Modules that ran, of those that hold parameters of their own."""
        self.by_keyword: set[str] = set()
        """Modules that were given no positional argument."""
        self.twins = repeated_layers(model)
        """Modules of repeated layers, and the modules of the first such layer that stand for them."""
        self.misshapen: set[str] = set()
        """Linears of which the forward does not map (..., in) to (..., out)."""
        self.routers: set[str] = set()
        """Linear subclasses that return more than a tensor."""
        self.unlike_lookup: set[str] = set()
        """Embeddings whose forward does more than look up ids (and scale by `embed_scale`)."""
        replaced = {
            id(module)
            for name, module in model.named_modules()
            if name in self.twins or self._replace(name, module)  # repeats of a layer never run
        }
        for seen in (self.misshapen, self.routers):
            seen |= {name for name, first in self.twins.items() if first in seen}
        with torch.no_grad():
            _materialize(model, model, replaced, {})
        self._pass_through_repeats()

    def run(self, **inputs: Any) -> torch.Tensor:
        """Logits of one forward pass over BATCH texts of LENGTH tokens; `inputs` go to the model as well."""
        ids = torch.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) + 3
        with torch.enable_grad(), short_chunks(self.model):
            output = self.model(**{"input_ids": ids, "use_cache": False, **inputs})
        return output.logits if hasattr(output, "logits") else output[0]  # type: ignore[no-any-return]

    @contextmanager
    def replaying(self, override: dict[str, torch.Tensor]) -> Iterator[None]:
        """Inside, linears are noiseless linear maps, but those named in `override` give its tensor."""
        self.replay, self.override = True, override
        try:
            with torch.no_grad():
                yield
        finally:
            self.replay, self.override = False, {}

    def _replace(self, name: str, module: nn.Module) -> bool:
        """Give a module its stand-in; False if it must run unchanged, with weights."""
        own = [parameter for parameter in module._parameters.values() if parameter is not None]
        if not own:
            return False

        def note(_module: nn.Module, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
            self.called.add(name)
            if not args:
                self.by_keyword.add(name)

        module.register_forward_pre_hook(note, with_kwargs=True)
        if isinstance(module, nn.Linear | Conv1D):
            shape = _shape_given(module)
            if shape == "router":
                self.routers.add(name)
                return False
            if shape == "other":
                self.misshapen.add(name)
            module.forward = self._linear(name, module)  # type: ignore[method-assign]
        elif isinstance(module, nn.Embedding):
            module.forward = self._embedding(name, module)  # type: ignore[method-assign]
        elif _holds_experts(own) and _EXPERTS.search(f"{name} {type(module).__name__}"):
            module.forward = self._experts(own)
        else:
            return False
        return True

    def _linear(self, name: str, module: nn.Linear | Conv1D) -> Forward:
        rows, columns = linear_shape(module)
        into, out = self.noise.take(columns) / columns**0.5, self.noise.take(rows)
        meta = dict(module._parameters)
        native = type(module).forward

        def forward(x: torch.Tensor, *_args: Any) -> torch.Tensor:
            if name in self.override:
                return self.override[name]
            if name in self.misshapen:
                given = _on_meta(module, meta, native, x)
                self.outputs[name] = _with_gradient(self.noise.take(*given.shape) + x.mean())
                return self.outputs[name]
            y: torch.Tensor = ((x.float() @ into).unsqueeze(-1) * out).contiguous()
            if not self.replay:
                self.outputs[name] = y = _with_gradient(y + self.noise.take(*y.shape))
            return y

        return forward

    def _embedding(self, name: str, module: nn.Embedding) -> Forward:
        native = module.forward
        plain = type(module).forward is nn.Embedding.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            with torch.no_grad():  # the gradient of a lookup is as large as the weight
                given = native(*args, **kwargs)
            if not plain and not _looks_up(module, native, args, kwargs):
                self.unlike_lookup.add(name)
            first, *rest = given if isinstance(given, tuple) else (given,)
            self.outputs[name] = y = _with_gradient(first + self.noise.take(*first.shape))
            return (y, *rest) if isinstance(given, tuple) else y

        return forward

    def _experts(self, own: list[nn.Parameter]) -> Forward:
        """As wide as its input, or, if it has a single weight, as wide as that weight's output."""
        stacks = [parameter for parameter in own if parameter.dim() > 1]
        image = {size: self.noise.take(size) for size in stacks[0].shape[1:]}

        def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
            x, *rest = [*args, *kwargs.values()]
            y: torch.Tensor = x + 0.1 * sum(_trace(t) for t in rest if _differentiable(t))
            if len(stacks) > 1 or x.shape[-1] not in stacks[0].shape[1:]:
                return y
            sides = list(stacks[0].shape[1:])
            sides.remove(x.shape[-1])
            return y.mean(-1, keepdim=True) * image[sides[0]]

        return forward

    def _pass_through_repeats(self) -> None:
        modules = dict(self.model.named_modules())
        shown: dict[str, Any] = {}
        for repeat, first in self.twins.items():
            if not repeat.rpartition(".")[2].isdigit() or repeat.count(".") != first.count("."):
                continue
            if first not in shown:
                shown[first] = None
                modules[first].register_forward_hook(
                    lambda _module, _args, output, key=first: shown.__setitem__(key, output)
                )

            def forward(*args: Any, key: str = first, **kwargs: Any) -> Any:
                hidden = args[0] if args else kwargs["hidden_states"]
                output = shown[key]
                return type(output)([hidden, *output[1:]]) if isinstance(output, tuple | list) else hidden

            modules[repeat].forward = forward


def _shape_given(module: nn.Linear | Conv1D) -> str:
    """What a linear on the meta device makes of (..., in): `out`, if (..., out); `router`, if a tuple; `other`."""
    if type(module).forward in (nn.Linear.forward, Conv1D.forward):
        return "out"
    rows, columns = linear_shape(module)
    try:
        given = module(torch.empty(2, columns, device="meta"))
    except RuntimeError:
        return "other"
    if not isinstance(given, torch.Tensor):
        return "router"
    return "out" if given.shape == (2, rows) else "other"


def _on_meta(
    module: nn.Module, meta: dict[str, nn.Parameter | None], native: Forward, x: torch.Tensor
) -> torch.Tensor:
    kept = dict(module._parameters)
    module._parameters.update(meta)
    try:
        return native(module, x.to("meta"))  # type: ignore[no-any-return]
    finally:
        module._parameters.update(kept)


def _looks_up(module: nn.Embedding, native: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the forward gives row `id` of the weight for each id it was given, times `embed_scale`."""
    if len(args) != 1 or kwargs or args[0].is_floating_point():
        return False
    kept = module._parameters["weight"]
    numbered = torch.arange(1.0, module.num_embeddings + 1).unsqueeze(1)
    module._parameters["weight"] = nn.Parameter(numbered.expand(-1, module.embedding_dim))
    try:
        with torch.no_grad():
            given = native(*args)
    finally:
        module._parameters["weight"] = kept
    wanted = (args[0] + 1.0) * float(getattr(module, "embed_scale", 1.0))
    return given.shape == (*args[0].shape, module.embedding_dim) and torch.allclose(
        given[..., 0], wanted.to(given), rtol=1e-3
    )


def _with_gradient(y: torch.Tensor) -> torch.Tensor:
    """A tensor that has a gradient and is not a leaf, so that a model may modify it in place."""
    return y if y.requires_grad else y.requires_grad_().clone()


def _holds_experts(own: list[nn.Parameter]) -> bool:
    """Whether these are the weights of a layer's experts: stacked, or laid end to end in several matrices (DBRX)."""
    large = [parameter.dim() for parameter in own if parameter.numel() > REAL_LIMIT]
    return 3 in large or large.count(2) > 1


def _trace(value: torch.Tensor) -> torch.Tensor:
    """A number that depends on a tensor; for a large stand-in, one of its equal elements."""
    return value.mean() if value.numel() <= REAL_LIMIT else value[(0,) * value.dim()]


def _differentiable(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _materialize(
    module: nn.Module, owner: PreTrainedModel, replaced: set[int], done: dict[int, nn.Parameter]
) -> None:
    """Real tensors for what is small, expanded zeros for the rest; initialized as transformers does."""
    if isinstance(module, PreTrainedModel):
        owner = module
    for child in module.children():
        _materialize(child, owner, replaced, done)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            is_stand_in = id(module) in replaced or parameter.numel() > REAL_LIMIT
            module._parameters[name] = done.setdefault(id(parameter), _real(parameter, is_stand_in))
    stale = False
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_meta:
            module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
            stale = True
    if stale or id(module) not in replaced:
        try:
            owner._init_weights(module)
        except (RuntimeError, AttributeError):
            return  # it tried to write to a stand-in's weight


def _real(parameter: nn.Parameter, is_stand_in: bool) -> nn.Parameter:
    if is_stand_in:
        expanded = nn.Parameter(torch.zeros(()).expand(parameter.shape), parameter.requires_grad)
        expanded._is_hf_initialized = True  # type: ignore[attr-defined]
        return expanded
    generator = torch.Generator().manual_seed(1)
    return nn.Parameter(0.02 * torch.randn(parameter.shape, generator=generator), parameter.requires_grad)
