"""What a GPU without bfloat16, without Triton's compiler, or that torch cannot use means for a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support import meter
from trainer.common.devices import CPU, Device
from trainer.common.errors import Issue
from trainer.common.triton_compiler import NoTriton
from trainer.config.schema import RunConfig, Tick, default_config
from trainer.models.discovery.discover import discover
from trainer.models.module_map import ModuleMap
from trainer.planning.memory.estimate import estimate
from trainer.planning.plan import Plan, make_plan
from trainer.planning.schedule import Size

H100 = Device("cuda:0", 80 * 10**9, 80 * 10**9, bfloat16=True, float16=True, model="NVIDIA H100 NVL")
T4 = replace(H100, total=16 * 10**9, free=16 * 10**9, bfloat16=False, model="Tesla T4")
PASCAL = replace(T4, float16=False, model="Tesla P40")


@pytest.fixture(scope="module")
def medium() -> ModuleMap:
    return discover(meter.phi3_medium(), "phi3-medium")


def plan(medium: ModuleMap, device: Device, **model: Any) -> Plan:
    config = default_config("phi3-medium")
    config = replace(config, modules=(Tick("o_proj"), Tick("down_proj")), model=replace(config.model, **model))
    return make_plan(config, medium, device, data=Size(10**6, 100.0))


@pytest.mark.parametrize(
    ("device", "dtype", "instead"),
    [
        (T4, "bfloat16", "float16"),
        (PASCAL, "bfloat16", "float32"),
        (PASCAL, "float16", "float32"),
        (CPU, "float16", "float32"),
        (T4, "float16", ""),
        (H100, "float16", ""),
        (CPU, "bfloat16", ""),
        (T4, "auto", ""),
    ],
)
def test_a_compute_type_that_a_device_lacks_is_refused(
    medium: ModuleMap, device: Device, dtype: str, instead: str
) -> None:
    issues = plan(medium, device, dtype=dtype).issues
    assert [issue.changes for issue in issues] == ([{"model.dtype": instead}] if instead else [])
    assert all(instead in issue.fix for issue in issues)


def test_fp8_is_refused_where_the_gpu_cannot_multiply_it(medium: ModuleMap) -> None:
    """It trains on a CPU as well, and the plan says that it saves no time there."""
    ada = replace(H100, float8=True)
    assert not plan(medium, ada, quantization="fp8").issues
    (issue,) = plan(medium, H100, quantization="fp8").issues
    assert issue.changes == {"model.quantization": "nf4"} and "8.9" in issue.problem
    on_cpu = plan(medium, CPU, quantization="fp8")
    assert not on_cpu.issues and any("FP8" in warning.problem for warning in on_cpu.warnings)
    memory = {way: plan(medium, ada, quantization=way).memory for way in ("fp8", "none")}
    half = memory["none"]["other weights"] - memory["fp8"]["other weights"]
    assert memory["fp8"]["quantized weights"] == half / 2


def test_auto_is_float16_where_there_is_no_bfloat16(medium: ModuleMap) -> None:
    narrow, half, wide = plan(medium, T4), plan(medium, T4, dtype="float16"), plan(medium, T4, dtype="float32")
    assert narrow.memory == half.memory != wide.memory
    assert any("float16, with loss scaling" in warning.problem for warning in narrow.warnings)
    assert half.warnings == plan(medium, H100).warnings == ()


def test_without_a_compiler_nothing_needs_triton(medium: ModuleMap, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernels of Liger, no compiled layers even if set, and tiles of logits as torch computes them are counted."""
    monkeypatch.setattr("trainer.planning.performance.find_spec", lambda _: True)
    lacks = replace(H100, no_triton=NoTriton("there is no C compiler", "Install gcc and python3-dev."))
    found, usual = plan(medium, lacks), plan(medium, H100)
    assert (found.performance.torch_compile, found.performance.use_liger_kernel) == (False, False)
    assert usual.performance.torch_compile
    assert found.performance.why["torch_compile"] == found.performance.why["use_liger_kernel"]
    assert "no C compiler" in found.performance.why["torch_compile"]
    assert [str(warning) for warning in found.warnings if "gcc and python3-dev" in warning.fix]
    on = default_config("phi3-medium")
    forced = replace(on.training, torch_compile="on", use_liger_kernel="on")
    on = replace(on, modules=(Tick("o_proj"),), training=forced)
    chosen = make_plan(on, medium, lacks).performance
    assert (chosen.torch_compile, chosen.use_liger_kernel) == (False, False)
    logits = [
        estimate(on, medium, found.targets, device, recompute=True).moments(1, 4096)[0]["logits"]
        for device in (lacks, H100)
    ]
    assert logits[0] - logits[1] == 4096 * medium.vocab_size * 4 * 7


def test_a_gpu_that_torch_cannot_use_keeps_the_run_from_starting(medium: ModuleMap) -> None:
    issue = Issue("device", "The driver 550.54 is too old.", "Update it.")
    found = make_plan(RunConfig(modules=(Tick("o_proj"),)), medium, replace(H100, issue=issue))
    assert found.issues == (issue,)
    assert not [warning for warning in found.warnings if warning.field == "device"]
