"""The device as torch sees it, and training in float16 with loss scaling, as on GPUs without bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from trl.kernels import chunked_logprob

from tests.support.lab import small_config
from trainer.common import devices
from trainer.common.devices import Device
from trainer.common.errors import Issue, UserError
from trainer.config.schema import ModelConfig, RunConfig
from trainer.training import gpu, loop
from trainer.training.loading import compute_dtype
from trainer.training.modules_trainer import ModulesSFTTrainer
from trainer.training.trainer import build_trainer

Events = list[dict[str, Any]]
Train = Callable[..., tuple[Events, Any]]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    config = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=8)
    return replace(config, model=replace(config.model, dtype="float16"))


class ScalingAccelerator(Accelerator):  # type: ignore[misc]
    """Scales and autocasts on a CPU, too: accelerate does so on GPUs only."""

    init_scale = 2.0**16

    def __init__(self, *values: Any, **keywords: Any) -> None:
        super().__init__(*values, **keywords)
        assert self.mixed_precision == "fp16"
        self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", init_scale=self.init_scale)


@pytest.fixture
def train(config: RunConfig, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train; returns the events and the model. Ends with an event `error` if the run fails."""

    def run(init_scale: float) -> tuple[Events, Any]:
        events: Events = []
        models: list[Any] = []

        def build(config: RunConfig, performance: Any, model: Any, *rest: Any) -> Any:
            models.append(model)
            return build_trainer(config, performance, model, *rest)

        monkeypatch.setattr(ScalingAccelerator, "init_scale", init_scale)
        monkeypatch.setattr("transformers.trainer.Accelerator", ScalingAccelerator)
        monkeypatch.setattr(loop, "build_trainer", build)
        able = replace(devices.device(), float16=True)
        monkeypatch.setattr(devices, "device", lambda: able)
        paths = loop.RunPaths(tmp_path / "run", models_dir, tmp_path / "data")
        paths.folder.mkdir()
        try:
            loop.train(config, paths, lambda type, **values: events.append({"type": type, **values}), lambda: False)
        except UserError as error:
            events.append({"type": "error", "text": str(error)})
        return events, models[0]

    return run


def test_loss_scaling_trains_float32_weights_and_skips_what_overflows(train: Train, tmp_path: Path) -> None:
    events, model = train(init_scale=2.0**20)
    losses = [event["loss"] for event in events if event["type"] == "metrics"]
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.2
    skipped = [event["text"] for event in events if "is skipped" in event.get("text", "")]
    assert "Step 1 is skipped" in skipped[0], "the first scale is too large"
    assert losses[1] == pytest.approx(losses[0], rel=0.05), "the step that overflowed changed nothing"
    assert not any("fused loss does not work" in event.get("text", "") for event in events)
    dtypes = {(weight.requires_grad, weight.dtype) for weight in model.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.float16)}
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-8" / "scaler.pt").exists(), "a resumed run keeps the scale"


def test_gradients_that_never_fit_end_the_run(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = ModulesSFTTrainer.compute_loss
    monkeypatch.setattr(
        ModulesSFTTrainer, "compute_loss", lambda *values, **keywords: fused(*values, **keywords) * 1e12
    )
    events, _ = train(init_scale=2.0)
    assert events[-1]["type"] == "error"
    assert "not a finite number at step 2" in events[-1]["text"], "the scale is below 1 from then on"
    assert "Set dtype to float32" in events[-1]["text"]


@pytest.fixture
def t4(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's answers on a machine with a T4, which emulates bfloat16."""
    properties = SimpleNamespace(major=7, minor=5, name="Tesla T4")
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "get_device_properties": lambda _: properties,
        "get_device_capability": lambda _: (7, 5),
        "mem_get_info": lambda _: (14 * 10**9, 16 * 10**9),
        "get_arch_list": lambda: ["sm_75", "sm_80", "sm_90"],
        "_check_bf16_tensor_supported": lambda _: True,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(chunked_logprob, "_TRITON_AVAILABLE", True)


@pytest.mark.usefixtures("t4")
def test_the_device_is_what_torch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the driver lists: here another card, of another size, with another program's compiler."""
    listed = Device(
        "cuda:0", 80 * 10**9, 1, bfloat16=True, model="NVIDIA H100", issue=Issue("device", "Unknown.", "")
    )
    monkeypatch.setattr(devices, "device", lambda: listed)
    found = gpu.training_device()
    assert (found.name, found.model, found.total, found.issue) == ("cuda:0", "Tesla T4", 16 * 10**9, None)
    assert 14 * 10**9 < found.free < 15 * 10**9, "with the context, which the plan counts"
    assert (found.auto_dtype, gpu.auto_dtype()) == ("float16", "float16"), "emulated bfloat16 is not bfloat16"
    assert torch.cuda.is_bf16_supported()
    assert compute_dtype(ModelConfig()) == torch.float16
    assert found.no_triton is not None, "there is no GPU, so Triton does not start"
    assert not chunked_logprob._use_triton(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90", "compute_90"])
    unsupported = gpu.training_device().issue
    assert unsupported is not None
    assert "no kernels for Tesla T4 (compute capability 7.5)" in unsupported.problem


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((8, 6), ["sm_80"], True),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((7, 0), ["sm_75", "sm_80", "sm_90", "compute_120"], False),
        ((9, 0), ["sm_90a"], True),
        ((12, 1), ["sm_120"], True),
        ((10, 3), ["sm_100a"], False),
        ((10, 3), ["sm_100f"], True),
    ],
)
def test_kernels_run_where_cuda_runs_them(capability: tuple[int, int], built_for: list[str], runs: bool) -> None:
    assert gpu.has_kernels(capability, built_for) is runs
