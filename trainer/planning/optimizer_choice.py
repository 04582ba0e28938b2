"""Which optimizer a run uses, and what its state takes."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import NamedTuple

from trainer.common.devices import Device
from trainer.common.formatting import size

FLOAT32 = 4
SMALL_STATE = 0.02
"""Share of the device's memory up to which a state in float32 is small: LoRA's is, that of embeddings is not."""
PAGED_FROM, EIGHT_BIT_FROM, BLOCK = 100_000, 4096, 256
"""bitsandbytes: elements from which a state is paged and from which it is 8-bit, and elements per scale."""


class OptimizerChoice(NamedTuple):
    """An optimizer by its name in transformers, and the reason as a phrase."""

    name: str
    why: str

    @property
    def eight_bit(self) -> bool:
        return self.name == "paged_adamw_8bit"


def choose_optimizer(way: str, device: Device, sizes: Iterable[int]) -> OptimizerChoice:
    """The optimizer for trained tensors of these sizes; `way`: as configured.

    bitsandbytes' AdamW waits for the GPU at every tensor, which only pays where its smaller state is needed.
    """
    state = sum(optimizer_state(sizes, eight_bit=False).values())
    if way == "adamw_torch":
        return OptimizerChoice("adamw_torch_fused", "AdamW, fused, as set")
    if not device.is_gpu:
        paged = "" if way == "auto" else ": the paged 8-bit one needs a GPU"
        return OptimizerChoice("adamw_torch_fused", f"AdamW, fused{paged}")
    if way != "auto":
        return OptimizerChoice(way, "paged 8-bit AdamW, as set")
    if state <= SMALL_STATE * device.room:
        return OptimizerChoice("adamw_torch_fused", f"AdamW, fused: its state takes only {size(state)}")
    return OptimizerChoice("paged_adamw_8bit", f"paged 8-bit AdamW: in float32, its state would take {size(state)}")


def optimizer_state(sizes: Iterable[int], eight_bit: bool) -> dict[str, int]:
    """AdamW's two moments of tensors of these sizes: in float32, or as bitsandbytes' paged 8-bit AdamW holds them."""
    if not eight_bit:
        return {"optimizer": 2 * FLOAT32 * sum(sizes)}
    held = paged = 0
    for elements in sizes:
        if elements < EIGHT_BIT_FROM:
            held += 2 * FLOAT32 * elements
            continue
        held += 2 * FLOAT32 * ceil(elements / BLOCK)
        if elements < PAGED_FROM:
            held += 2 * elements
        else:
            paged += 2 * elements
    return {"optimizer": held, "optimizer, paged": paged}
