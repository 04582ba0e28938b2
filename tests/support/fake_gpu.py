"""Memory of a full-size model on a GPU, simulated with fake tensors: shapes and dtypes without data.

Imitates what differs from a CPU: operations that autocast runs in float32, SDPA's kernels, dropout's one-byte mask.
Does not cover the loss, the optimizer, or temporary memory inside kernels.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any
from unittest import mock

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import QuantState
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, Conv1D, PreTrainedConfig

from tests.support.meter import Meter, storages
from trainer.config.schema import RunConfig
from trainer.models.discovery.autocast import GpuAutocastWidening
from trainer.models.module_map import ModuleMap
from trainer.planning.memory.weights import experts_to_quantize, modules_to_quantize
from trainer.planning.plan import Plan
from trainer.training import adapter
from trainer.training.quantization.experts import quantize_experts, quantized_experts


@dataclass(frozen=True)
class Measured:
    """Bytes."""

    static: int
    """All weights, before a step."""
    kept: int
    """Activations at the end of the forward pass through all layers."""
    forward: int
    """Peak in addition to `static` during that pass."""
    backward: int
    """Peak in addition to `static` during the backward pass."""


def measure(
    config: PreTrainedConfig, run: RunConfig, plan: Plan, module_map: ModuleMap, masked: bool, every_n_layers: int = 0
) -> Measured:
    """Measure one forward and backward pass of `run`'s batch. `masked`: attention needs a mask."""
    batch, length = run.training.per_device_train_batch_size, run.training.max_length
    model = _attached(config, run, plan, module_map)
    shape = torch.Size((batch, 1, length, length)) if masked else None
    if every_n_layers:
        way = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), _like_a_gpu())}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=way, every_n_layers=every_n_layers)
    with FakeTensorMode(allow_non_fake_inputs=True), _masks(model, shape):
        constants = _make_fake(model)
        adapter.prepare(model, plan, torch.bfloat16)
        weights = storages([*model.parameters(), *model.buffers(), *constants])
        meter = Meter([*model.parameters(), *model.buffers(), *constants])
        model.train()
        with meter, _cuda_seems_to_autocast():
            with torch.autocast("cpu", dtype=torch.bfloat16), _like_a_gpu():
                ids = torch.zeros(batch, length, dtype=torch.long)
                states = model.get_base_model().base_model(input_ids=ids, use_cache=False)[0]
            kept = meter.live
            forward, meter.peak = meter.peak, kept
            states.backward(torch.empty_like(states))
    return Measured(sum(weights.values()), kept, forward, meter.peak)


class CallsLikeAGpu(TorchFunctionMode):
    """Calls GPU kernels, whatever device the tensors are on."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replaced: dict[str, Any] = {"dropout": _dropout, "scaled_dot_product_attention": _attention}
        other = replaced.get(getattr(func, "__name__", ""))
        return (other or func)(*args, **(kwargs or {}))


@contextmanager
def _cuda_seems_to_autocast() -> Iterator[None]:
    """PEFT asks without a device, which means CUDA; everyone else names a device and gets the real answer."""
    asked = torch.is_autocast_enabled
    with mock.patch("torch.is_autocast_enabled", lambda *device: asked(*device) if device else True):
        yield


@contextmanager
def _like_a_gpu() -> Iterator[None]:
    with GpuAutocastWidening(), CallsLikeAGpu():
        yield


def _dropout(value: torch.Tensor, p: float = 0.5, training: bool = True, **_: Any) -> torch.Tensor:
    return torch.native_dropout(value, p, True)[0] if training and p else value


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> torch.Tensor:
    """Flash attention without a mask, memory-efficient attention with one; both in bfloat16."""
    query, key, value = (tensor.to(torch.bfloat16) for tensor in (query, key, value))
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scale)[0]
    zero, hidden = torch.zeros((), dtype=query.dtype), torch.full((), -1e9, dtype=query.dtype)
    bias = torch.where(attn_mask, zero, hidden) if attn_mask.dtype == torch.bool else attn_mask.to(query.dtype)
    bias = bias.expand(*query.shape[:3], key.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, 0.0, False, scale=scale
    )[0]


def _attached(config: PreTrainedConfig, run: RunConfig, plan: Plan, module_map: ModuleMap) -> Any:
    """The model on `meta`, its linears replaced by bitsandbytes' if quantized, with the adapter."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    quantized = modules_to_quantize(run.model.quantization, module_map, plan.targets)
    experts = experts_to_quantize(run.model.quantization, module_map)
    with mock.patch("trainer.training.quantization.experts._pack", lambda weight: (weight, None)):
        quantize_experts(model, experts)
    for name in quantized - experts:
        old = model.get_submodule(name)
        linear = bnb.nn.Linear4bit(1, 1, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
        rows, columns = old.weight.shape
        linear.out_features, linear.in_features = (columns, rows) if isinstance(old, Conv1D) else (rows, columns)
        linear.bias = old.bias
        model.set_submodule(name, linear)
    model.is_loaded_in_4bit = bool(quantized)
    with torch.device("meta"):
        return adapter.attach(model, plan, run.adapter, module_map)


@contextmanager
def _masks(model: Any, shape: torch.Size | None) -> Iterator[None]:
    """Masks of this shape, or none: real ones depend on data, which fake tensors do not have."""
    code = importlib.import_module(type(model.get_base_model()).__module__)
    names = [name for name in dir(code) if name.startswith("create_") and name.endswith("mask")]
    made: dict[str, Any] = dict.fromkeys(names, lambda *_, **__: shape and torch.zeros(shape, dtype=torch.bool))
    with mock.patch.multiple(code, **made):
        yield


def _make_fake(model: nn.Module) -> list[torch.Tensor]:
    """Turn all weights into fake ones; returns the quantization constants."""
    made: dict[int, nn.Parameter] = {}  # tied weights stay tied
    constants = []
    stand_ins = {id(weight.stand_in): weight for _, _, weight in quantized_experts(model).values()}
    for module in model.modules():
        four_bit = isinstance(module, bnb.nn.Linear4bit)
        for name, old in list(module._parameters.items()):
            if old is None or (four_bit and name == "weight"):
                continue
            if id(old) not in made:
                shape = (1,) * old.dim() if id(old) in stand_ins else old.shape
                new = torch.empty(shape, dtype=torch.float32 if old.requires_grad else old.dtype).expand(old.shape)
                made[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad)
            module._parameters[name] = made[id(old)]
        for name, buffer in list(module._buffers.items()):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype) if buffer is not None else None
        if four_bit:
            constants += _quantize(module)
    for number, weight in stand_ins.items():
        weight.stand_in = made[number]
        weight.packed, weight.state = _nf4(weight.stand_in.shape)
        constants += [tensor for part in weight.tensors().values() for tensor in part]
    return constants


def _quantize(linear: Any) -> list[torch.Tensor]:
    """Give a linear its quantized weight; returns the quantization constants."""
    packed, state = _nf4(torch.Size((linear.out_features, linear.in_features)))
    weight = nn.Parameter(packed, requires_grad=False)
    weight.quant_state, weight.compress_statistics, weight.quant_type = state, True, "nf4"  # type: ignore[attr-defined]
    linear._parameters["weight"], linear.quant_state = weight, state
    linear.support_avx512bf16_for_cpu = False
    return [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]


def _nf4(shape: torch.Size) -> tuple[torch.Tensor, QuantState]:
    """An NF4 weight with double quantization, as in bitsandbytes."""
    count = prod(shape)
    scales = -(-count // 64)
    second = QuantState(torch.empty(-(-scales // 256)), blocksize=256, code=torch.empty(256), dtype=torch.float32)
    state = QuantState(
        absmax=torch.empty(scales, dtype=torch.uint8),
        shape=shape,
        code=torch.empty(16),
        blocksize=64,
        quant_type="nf4",
        dtype=torch.bfloat16,
        offset=torch.empty(()),
        state2=second,
    )
    return torch.empty(-(-count // 2), 1, dtype=torch.uint8), state
