"""Imitates a GPU's autocast on any device, to measure which activations a GPU would save."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FLOAT32_FUNCTIONS = {
    *("exp", "expm1", "log", "log1p", "reciprocal", "rsqrt", "pow", "__pow__", "softplus", "layer_norm", "norm"),
    *("group_norm", "softmax", "log_softmax", "cumsum", "cumprod", "sum", "prod"),
}
"""Functions of language models that autocast computes in float32 on a GPU (ATen/autocast_mode.h)."""


class GpuAutocastWidening(TorchFunctionMode):
    """Casts half-precision inputs of these functions to float32 unless the call sets a dtype."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in FLOAT32_FUNCTIONS or kwargs.get("dtype") is not None:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):  # it would cast them back
            return func(*map(_widened, args), **{key: _widened(value) for key, value in kwargs.items()})


def _widened(value: Any) -> Any:
    narrow = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if narrow else value
