"""The training device as torch sees it: this decides how a run is planned, whatever the driver lists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from trl.kernels import chunked_logprob

from trainer.common import devices
from trainer.common.devices import Device
from trainer.common.errors import Issue, UserError, first_line
from trainer.common.nvidia import Gpu
from trainer.common.torch_build import ON_THE_CPU, TorchBuild, no_kernels
from trainer.common.triton_compiler import NoTriton, no_triton
from trainer.planning.memory.estimate import CONTEXT


def training_device() -> Device:
    """The device to train on. Raises UserError if the driver lists a GPU that torch cannot use.

    Without Triton's compiler, TRL's fused loss computes its tiles with torch from now on.
    """
    listed = devices.device()
    if not torch.cuda.is_available():
        if listed.is_gpu:
            issue = listed.issue or _refused(listed)
            raise UserError(issue.problem, issue.fix)
        return listed
    device = _as_torch_sees_it(listed)
    if device.no_triton is not None:
        chunked_logprob._TRITON_AVAILABLE = False  # TRL has no public switch
    return device


def auto_dtype() -> str:
    """The compute type `auto`: `Device.auto_dtype` of the device that torch uses."""
    return _with_types(Device("cuda:0")).auto_dtype if torch.cuda.is_available() else devices.CPU.auto_dtype


def has_kernels(capability: tuple[int, int], built_for: Iterable[str]) -> bool:
    """Whether a build for these architectures (`torch.cuda.get_arch_list()`) runs on a GPU of this capability.

    `sm_80` is machine code for 8.0 and later 8.x, `compute_80` is compiled for any later GPU when it runs;
    `sm_90a` is for 9.0 only.
    """
    for architecture in built_for:
        kind, _, number = architecture.partition("_")
        digits = number.rstrip("af")
        made_for = (int(digits[:-1]), int(digits[-1]))
        if number.endswith("a"):
            fits = capability == made_for
        else:
            fits = made_for <= capability and (kind == "compute" or capability[0] == made_for[0])
        if fits:
            return True
    return False


def _as_torch_sees_it(listed: Device) -> Device:
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    capability = (properties.major, properties.minor)
    build = TorchBuild(torch.__version__, torch.version.cuda or "", torch.version.hip or "")
    runs = bool(build.hip) or has_kernels(capability, torch.cuda.get_arch_list())
    return replace(
        _with_types(listed),
        name="cuda:0",
        total=total,
        free=min(total, free + CONTEXT),  # the plan counts the context, which exists by now
        busy=False,
        model=properties.name,
        rocm=build.hip,
        no_triton=_no_triton(),
        issue=None if runs else no_kernels(build, Gpu(properties.name, total, free, capability)),
    )


def _with_types(device: Device) -> Device:
    """The device with the compute types that its hardware has."""
    amd, capability = bool(torch.version.hip), torch.cuda.get_device_capability(0)
    return replace(
        device,
        bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        float16=amd or capability >= (7, 0),
        float8=not amd and capability >= (8, 9),
    )


def _no_triton() -> NoTriton | None:
    """Why Triton cannot compile kernels for this GPU: its start is tried, which builds what every kernel needs."""
    found = no_triton()
    if found is not None:
        return found
    try:
        from triton.runtime import driver

        assert driver.active.utils
    except Exception as error:  # whatever a build may raise
        return NoTriton(f"it does not start ({first_line(error)})")
    return None


def _refused(listed: Device) -> Issue:
    """What torch says of a GPU that it cannot use."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        reason = "it finds none"
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
    name = listed.model or listed.name
    problem = f"The driver lists a GPU ({name}), but torch cannot use it: {reason.rstrip('.')}."
    fix = f"Check the driver with nvidia-smi, and the GPU settings of the container. {ON_THE_CPU}"
    return Issue("device", problem, fix)
