"""Frozen linears in FP8: weights in float8_e4m3fn with a scale for each row, multiplied on the GPU's FP8 units.

Inputs and gradients are quantized the same way, row by row, so that what a token gets does not depend on the others
in its micro-batch. torchao's Float8Linear is made for weights that train: it keeps every input for their gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import ScalingType

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
SMALLEST_SCALE = 1e-30
"""Scale of a row of zeros."""


class Fp8Linear(nn.Linear):
    """A frozen linear in FP8. `weight` holds its bytes (out, in) as uint8, which no cast of the model changes."""

    scale: torch.Tensor
    """(out, 1), float32."""

    def __init__(self, weight: torch.Tensor, bias: nn.Parameter | None) -> None:
        """`weight`: (out, in), both multiples of 16."""
        super().__init__(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        rows, scale = quantize_rows(weight)
        self.weight = nn.Parameter(rows.view(torch.uint8), requires_grad=False)
        self.register_parameter("bias", bias)
        self.register_buffer("scale", scale)  # transformers overwrites non-persistent ones

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out), in the dtype of the input, or of autocast."""
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))
        output: torch.Tensor = _Product.apply(input, self.weight, self.scale)  # type: ignore[no-untyped-call]
        return output if self.bias is None else output + self.bias.to(output.dtype)

    def dequantized(self) -> torch.Tensor:
        """The weight that this linear computes with: (out, in), float32."""
        return self.weight.view(E4M3).float() * self.scale


class _Product(torch.autograd.Function):
    """input @ weight.T, and the gradient of the input, both in FP8. Saves nothing but the weight."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        rows, row_scale = quantize_rows(input.reshape(-1, input.shape[-1]))
        output = _multiply(rows, row_scale, weight.view(E4M3), scale)
        return output.to(input.dtype).view(*input.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        # the weight's scales lie along the sum, so they go into the gradient before it is quantized
        scaled = gradient.reshape(-1, gradient.shape[-1]) * scale.T.to(gradient.dtype)
        rows, row_scale = quantize_rows(scaled)
        transposed = weight.T.contiguous()  # the FP8 units multiply rows by rows
        ones = torch.ones_like(transposed[:, :1], dtype=torch.float32)
        output = _multiply(rows, row_scale, transposed.view(E4M3), ones)
        return output.to(gradient.dtype).view(*gradient.shape[:-1], -1), None, None


def quantize_rows(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, width) as float8_e4m3fn, and the scale of each row: (rows, 1), float32."""
    if values.dtype == torch.float16:  # too narrow for the scales
        values = values.bfloat16()
    lowest, highest = torch.aminmax(values, dim=-1, keepdim=True)
    scale = (torch.maximum(highest, -lowest) / LARGEST).clamp(min=SMALLEST_SCALE)
    return (values / scale).clamp_(-LARGEST, LARGEST).to(E4M3), scale.float()


def _multiply(
    left: torch.Tensor, left_scale: torch.Tensor, right: torch.Tensor, right_scale: torch.Tensor
) -> torch.Tensor:
    """(m, k) times the transpose of (n, k), in bfloat16, the only output that every FP8 kernel has."""
    return functional.scaled_mm(
        left,
        right.T,
        left_scale,
        ScalingType.RowWise,
        right_scale.T,
        ScalingType.RowWise,
        output_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
