"""The compute type of a run, and what a device cannot do for its configuration."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.common.devices import Device
from trainer.common.errors import Issue
from trainer.config.schema import RunConfig


def compute_dtype(config: RunConfig, device: Device) -> str:
    """The name of the compute type: `loading.compute_dtype` without torch."""
    return device.auto_dtype if config.model.dtype == "auto" else config.model.dtype


def compute_width(config: RunConfig, device: Device) -> int:
    """Bytes of the compute type."""
    return 4 if compute_dtype(config, device) == "float32" else 2


def device_issues(config: RunConfig, device: Device) -> Iterator[Issue]:
    """What keeps the run from starting on this device."""
    if device.issue is not None:
        yield device.issue
        return
    name, dtype = device.model or "This GPU", config.model.dtype
    if dtype == "bfloat16" and device.is_gpu and not device.bfloat16:
        problem = f"{name} has no bfloat16, which would be emulated at a fraction of the speed."
        yield Issue("model.dtype", problem, f"Set it to {device.auto_dtype}.", {"model.dtype": device.auto_dtype})
    if dtype == "float16" and not (device.float16 or device.bfloat16):
        problem = f"{name} has no fast float16." if device.is_gpu else "A CPU does not train in float16."
        yield Issue("model.dtype", problem, f"Set it to {device.auto_dtype}.", {"model.dtype": device.auto_dtype})
    if config.model.quantization == "fp8" and device.is_gpu and not device.float8:
        problem = f"{name} cannot multiply in FP8, which needs an NVIDIA GPU of compute capability 8.9 or higher."
        yield Issue("model.quantization", problem, "Set it to nf4.", {"model.quantization": "nf4"})


def device_warnings(config: RunConfig, device: Device) -> Iterator[Issue]:
    """What the run does without on this device, or what is not known about it."""
    if device.beside_gpu:
        problem = "This machine has an NVIDIA GPU that this process cannot reach: the run trains on the CPU."
        yield Issue("device", problem, "To use the GPU, start the container with it (docker run --gpus all).")
    if config.model.quantization == "fp8" and not device.is_gpu:
        problem = "A CPU has no FP8 units: FP8 saves memory there, but no time."
        yield Issue("model.quantization", problem, "To train faster on a CPU, set it to none.")
    if not device.is_gpu or device.issue is not None:
        return
    if device.no_triton is not None:
        problem = f"Triton cannot compile GPU kernels: {device.no_triton.reason}. The run does without compiled "
        problem += "layers, Liger kernels and FlexAttention, and its loss takes more memory."
        yield Issue("device", problem, device.no_triton.fix)
    if config.model.dtype == "auto" and device.auto_dtype == "float16":
        problem = f"{device.model or 'This GPU'} has no bfloat16: the run computes in float16, with loss scaling."
        yield Issue("model.dtype", problem, "If the loss does not stay finite, set dtype to float32.")
    if device.rocm:
        problem = f"This torch is a ROCm build ({device.rocm}). No run on an AMD GPU has been measured yet."
        yield Issue("device", problem, "Expect other memory and speed than planned.")
    if not device.total:
        problem = "The GPU's memory is unknown until torch can be asked."
        yield Issue("device", problem, "The run plans again when it starts.")
