"""Measures a device's peak rates on a model's own shapes, and from them a lower bound for the training step time.

Also runs on a CPU, as a smoke test; the figures are only meaningful on a GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bitsandbytes.functional as quantized
import torch
from torch.nn.functional import linear, scaled_dot_product_attention

WARMUP, ROUNDS = 3, 10


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, and of one micro-batch of `rows` × `length` tokens."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    fused: bool
    rows: int
    length: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(out, in) of each linear in a layer."""
        head = self.hidden // self.heads
        queries, values = self.heads * head, self.key_value_heads * head
        attention = [queries + 2 * values] if self.fused else [queries, values, values]
        entering = [2 * self.inner] if self.fused else [self.inner, self.inner]
        into = [(out, self.hidden) for out in attention + entering]
        return [*into, (self.hidden, queries), (self.hidden, self.inner)]


@dataclass(frozen=True)
class Ceilings:
    """Peak rates, and seconds of one micro-batch; medians of ROUNDS."""

    gemm_tflops: dict[str, float]
    """Forward, by shape."""
    copy_gb_s: float
    """Bytes read and written."""
    dequantize_gb_s: float
    """Bytes written, over all linears of a layer."""
    attention_tflops: float
    """Forward and backward; causal, so half of all pairs count."""
    parts: dict[str, float]
    """Seconds of one micro-batch without recomputation, by part; their sum is the floor."""

    @property
    def floor(self) -> float:
        """Minimum seconds of a micro-batch."""
        return sum(self.parts.values())


def measure(shape: Shape, device: str) -> Ceilings:
    """The peak rates of `device` ("cuda" or "cpu") on these shapes."""
    dtype = torch.bfloat16
    gemm: dict[str, float] = {}
    products = dequantize = 0.0
    for out, width in shape.linears:
        forward, backward = _products(shape.tokens, out, width, device, dtype)
        gemm[f"{shape.tokens} × {width} × {out}"] = 2 * shape.tokens * out * width / forward / 1e12
        products += forward + backward
        dequantize += _dequantize(out, width, device, dtype)
    weights = sum(out * width for out, width in shape.linears)
    head = sum(_products(shape.tokens, shape.vocabulary, shape.hidden, device, dtype))
    attention = _attention(shape, device, dtype)
    bandwidth = _copy(device, 2**28 if device == "cuda" else 2**20)
    pairs = shape.rows * shape.heads * shape.length**2 / 2 * (shape.hidden // shape.heads)
    return Ceilings(
        gemm_tflops=gemm,
        copy_gb_s=bandwidth / 1e9,
        dequantize_gb_s=2 * weights / dequantize / 1e9,
        attention_tflops=2 * 2 * pairs * 3.5 / attention / 1e12,  # forward has two products, backward five
        parts={
            "products": shape.layers * products,
            "dequantization, forward and backward": 2 * shape.layers * dequantize,
            "attention": shape.layers * attention,
            "head": head,
            "norms, rotary embeddings, activations at copy speed": shape.layers * _elementwise(shape) / bandwidth,
        },
    )


def _elementwise(shape: Shape) -> int:
    """Minimum bytes moved between a layer's matrix products, in bfloat16; backward moves twice as many as forward."""
    values = shape.key_value_heads * (shape.hidden // shape.heads)
    forward = (
        8 * shape.hidden + 2 * (shape.hidden + values) + 3 * shape.inner
    )  # norms with residuals, rotary embeddings, SwiGLU
    return shape.tokens * 2 * 3 * forward


def _products(tokens: int, out: int, width: int, device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of a frozen linear's forward product, and of the product for its input's gradient."""
    inputs, weight = _random((tokens, width), device, dtype), _random((out, width), device, dtype)
    gradient = _random((tokens, out), device, dtype)
    return seconds(lambda: linear(inputs, weight), device), seconds(lambda: gradient @ weight, device)


def _dequantize(out: int, width: int, device: str, dtype: torch.dtype) -> float:
    packed, state = quantized.quantize_4bit(
        _random((out, width), device, dtype), quant_type="nf4", compress_statistics=True
    )
    return seconds(lambda: quantized.dequantize_4bit(packed, state), device)


def _attention(shape: Shape, device: str, dtype: torch.dtype) -> float:
    head = shape.hidden // shape.heads
    counts = (shape.heads, shape.key_value_heads, shape.key_value_heads)
    query, key, value = (
        _random((shape.rows, count, shape.length, head), device, dtype).requires_grad_() for count in counts
    )
    gradient = torch.ones_like(query)

    def both_ways() -> None:
        out = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        torch.autograd.grad(out, (query, key, value), gradient)

    return seconds(both_ways, device)


def _copy(device: str, size: int) -> float:
    """Bytes per second, read and written."""
    source = torch.zeros(size, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * size / seconds(lambda: target.copy_(source), device)


def _random(size: tuple[int, ...], device: str, dtype: torch.dtype) -> torch.Tensor:
    """Random values: zeros draw less power and would run faster than real training."""
    return torch.randn(size, device=device, dtype=dtype)


def seconds(call: Callable[[], Any], device: str) -> float:
    """Median seconds of a call, measured with CUDA events on a GPU."""
    for _ in range(WARMUP):
        call()
    if device != "cuda":
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return statistics.median(times)
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(ROUNDS)]
    torch.cuda._sleep(
        200_000_000
    )  # a tenth of a second, in which the calls queue up: else small ones wait for Python
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3
