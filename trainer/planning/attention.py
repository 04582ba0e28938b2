"""How a run computes attention: the fastest way that the model, the device and the compute type allow. No torch here.

`training/attention.py` has the functions; the run checks the choice on the real model before the first step.
"""

from __future__ import annotations

from trainer.common.devices import Device
from trainer.config.schema import RunConfig
from trainer.models.module_map import ModuleMap
from trainer.planning.device_limits import compute_width

SDPA, FLEX, VARLEN = "sdpa", "flex_attention", "varlen"
"""SDPA (or eager attention, for models without it), FlexAttention, and torch's `varlen_attn`: flash attention over
examples of any lengths."""
LARGEST_HEAD = 256
"""Elements of an attention head up to which torch's flash attention has kernels."""


def choose_attention(config: RunConfig, module_map: ModuleMap, device: Device) -> tuple[str, str]:
    """The attention implementation, and why."""
    forward = module_map.forward
    name = "SDPA" if forward.sdpa else "eager"
    if not device.is_gpu:
        return SDPA, f"{name}: others only help on a GPU"
    special = "softcaps" if forward.softcap else "attention sinks" if forward.sinks else ""
    half = compute_width(config, device) == 2
    fits = 0 < forward.head_size <= LARGEST_HEAD and forward.head_size % 8 == 0
    if forward.flash and device.bfloat16 and half and fits and not special:
        return VARLEN, "variable-length flash attention: no mask, keys and values are not repeated"
    if not half:
        return SDPA, f"{name}: others need a 16-bit compute type"
    if not forward.flex or not device.bfloat16:
        return SDPA, f"{name}: this {'GPU' if forward.flex else 'model'} supports no other"
    if device.no_triton is not None:
        return SDPA, f"{name}: FlexAttention needs Triton, and {device.no_triton.reason}"
    return FLEX, f"FlexAttention: no dense mask{f', and it has {special}' if special else ''}"
