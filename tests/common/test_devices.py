"""Which devices there are, what they can do, and whether the installed torch and Triton can use them."""

from __future__ import annotations

import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fake_nvml import Card, Nvml
from trainer.common import devices, nvidia, torch_build, triton_compiler
from trainer.common.nvidia import Driver, Gpu
from trainer.common.torch_build import TorchBuild, obstacle

GB = 10**9
T4 = Card("GPU-t4", "Tesla T4", (7, 5), 16 * GB, 15 * GB)
H100 = Card("GPU-h100-aaaa", free=71 * GB)
A100 = Card("GPU-a100", "NVIDIA A100", (8, 0))
SLICES = tuple(
    Card(f"MIG-{number}-bbbb", "NVIDIA A100 MIG 1g.10gb", total=10 * GB, free=9 * GB, whole=A100)
    for number in range(2)
)
CUDA_BUILD = TorchBuild("2.13.0", "13.0")


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    """A machine with a T4 and an H100, and torch's CUDA build."""
    library = Nvml([T4, H100])
    monkeypatch.setattr(nvidia, "_nvml", lambda: library)
    monkeypatch.setattr(devices, "_seen", {})
    monkeypatch.setattr(devices, "torch_build", lambda: CUDA_BUILD)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return library


def seen(monkeypatch: pytest.MonkeyPatch, visible: str) -> devices.Device:
    """The device of a process with this CUDA_VISIBLE_DEVICES."""
    monkeypatch.setattr(devices, "_seen", {})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    return devices.device()


def test_a_gpu_is_what_the_driver_says_once_a_second(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    h100 = seen(monkeypatch, "1")
    assert (h100.name, h100.model, h100.total, h100.free) == ("cuda:0", "NVIDIA H100 NVL", 80 * GB, 71 * GB)
    assert (h100.auto_dtype, h100.issue) == ("bfloat16", None)
    devices.device()
    assert nvml.asked == 1
    assert seen(monkeypatch, "0,1").auto_dtype == "float16", "a T4 has no bfloat16"
    nvml.cards = [replace(T4, capability=(6, 1))]
    assert seen(monkeypatch, "0").auto_dtype == "float32"
    unlisted = seen(monkeypatch, "GPU-gone").issue
    assert unlisted is not None
    assert "CUDA_VISIBLE_DEVICES names GPU-gone" in unlisted.problem
    assert seen(monkeypatch, "").name == seen(monkeypatch, "-1,0").name == "cpu"


@pytest.mark.usefixtures("nvml")
def test_a_gpu_has_one_lock_and_one_id_by_whatever_name_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(visible: str, device: str) -> str:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        identifier = devices.environment(device)["CUDA_VISIBLE_DEVICES"]
        assert devices.lock_path(device).name == f"gpu-{identifier}.lock"
        return identifier

    assert {given("0,1", "cuda:1"), given("1", "cuda:0"), given("GPU-h1", "cuda:0")} == {H100.uuid}
    assert given("0,1", "cuda:0") == given(T4.uuid, "cuda:0") == T4.uuid
    assert devices.environment("cuda:0")["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_slices_of_a_gpu_are_devices_with_their_own_memory(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.cards = [replace(A100, slices=SLICES), H100]
    assert devices.devices() == ("cuda:0", "cuda:1", "cuda:2")
    assert devices.environment("cuda:1")["CUDA_VISIBLE_DEVICES"] == SLICES[1].uuid
    for visible in ("0", "MIG-0", SLICES[0].uuid):
        part = seen(monkeypatch, visible)
        assert (part.total, part.free, part.bfloat16) == (10 * GB, 9 * GB, True)


def test_gpus_without_nvml_are_those_in_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_seen", {})
    monkeypatch.setattr(nvidia, "_PROC", tmp_path)
    monkeypatch.setattr(nvidia, "_nvml", lambda: Nvml([H100]))
    monkeypatch.setattr(devices, "torch_build", lambda: CUDA_BUILD)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "gpus").mkdir()
    assert devices.devices() == ("cuda:0",), "an empty folder says nothing"
    monkeypatch.setattr(nvidia, "_nvml", lambda: None)
    monkeypatch.setattr(nvidia, "_CONTROL", tmp_path / "nvidiactl")
    assert not devices.device().is_gpu
    (tmp_path / "gpus" / "0000:01:00.0").mkdir()
    monkeypatch.setattr(devices, "_seen", {})
    assert (devices.device().name, devices.device().beside_gpu) == ("cpu", True), "a container without its GPU"
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder@U16)\n"
    )
    device = devices.device()
    assert (device.name, device.room) == ("cuda:0", 0)
    assert device.issue is not None
    assert "driver 550.54.15" in device.issue.problem


@pytest.mark.parametrize(
    ("build", "driver", "capability", "says"),
    [
        (CUDA_BUILD, Driver("580.65", 13), (9, 0), ""),
        (CUDA_BUILD, Driver(), None, ""),
        (CUDA_BUILD, Driver("550.54", 13), (9, 0), ""),  # a container with cuda-compat
        (CUDA_BUILD, Driver("550.54", 12), (9, 0), "driver 550.54 is too old for this torch (CUDA 13.0 needs 580 or"),
        (CUDA_BUILD, Driver("550.54"), (9, 0), "driver 550.54 is too old"),
        (TorchBuild("2.13.0+cu126", "12.6"), Driver("550.54", 12), (7, 0), ""),
        (CUDA_BUILD, Driver("580.65", 13), (7, 0), "no kernels for Tesla (compute capability 7.0)"),
        (TorchBuild("2.13.0+cpu"), Driver("580.65", 13), (9, 0), "This torch (2.13.0+cpu) is a CPU build"),
        (TorchBuild("2.13.0+rocm7", "", "7.0"), Driver("580.65", 13), (9, 0), "is a ROCm build"),
    ],
)
def test_what_keeps_torch_from_a_gpu(
    build: TorchBuild, driver: Driver, capability: tuple[int, int] | None, says: str
) -> None:
    issue = obstacle(build, driver, Gpu("Tesla", capability=capability))
    assert says in issue.problem if issue and says else (issue is None) == (not says)
    assert issue is None or 'CUDA_VISIBLE_DEVICES=""' in issue.fix


def test_torch_s_build_is_known_without_torch() -> None:
    import torch

    build = torch_build.torch_build()
    assert build == (torch.__version__, torch.version.cuda or "", torch.version.hip or "")


def test_amd_s_gpus_are_listed_for_a_rocm_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_AMD", tmp_path)
    monkeypatch.setattr(devices, "_seen", {})
    monkeypatch.setattr(devices, "torch_build", lambda: TorchBuild("2.13.0+rocm7.0", "", "7.0"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for number, units in enumerate((0, 304)):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "properties").write_text(
            f"cpu_cores_count 8\nsimd_count {units}\nmem_banks_count 1\n"
        )
    assert devices.devices() == ("cuda:0",)
    assert (devices.device().rocm, devices.device().room) == ("7.0", 0)


def test_triton_needs_a_compiler_and_python_s_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason() -> str:
        found = triton_compiler.no_triton()
        return found.reason if found else ""

    monkeypatch.setattr(triton_compiler, "find_spec", lambda _: True)
    monkeypatch.delenv("CC", raising=False)
    assert reason() == ""
    monkeypatch.setenv("CC", "false")
    assert reason() == "false cannot build a Python extension (exit code 1)"
    monkeypatch.delenv("CC")
    paths = sysconfig.get_paths() | {"include": str(tmp_path)}
    monkeypatch.setattr(sysconfig, "get_paths", lambda **_: paths)
    assert reason() == "there is no Python.h"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert reason() == "there is no C compiler and no Python.h"
    (tmp_path / "Python.h").write_text("#include <missing.h>\n")
    monkeypatch.undo()
    monkeypatch.setattr(triton_compiler, "find_spec", lambda _: True)
    monkeypatch.setattr(sysconfig, "get_paths", lambda **_: paths)
    assert "missing.h" in reason()
    monkeypatch.setattr(triton_compiler, "find_spec", lambda _: None)
    assert reason() == "Triton is not installed"
