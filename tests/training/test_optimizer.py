"""The optimizer: which one a plan chooses, and paged states after a resume."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import bitsandbytes
import pytest
import torch

from tests.support import meter
from trainer.common import devices
from trainer.common.devices import Device
from trainer.config.schema import default_config
from trainer.models.discovery.discover import discover
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import Plan, make_plan
from trainer.planning.scenarios import SIX, study_job
from trainer.training.optimizer import keep_paged

SIZES = (100, 5000, 99_999, 100_000, 300_001)


@pytest.fixture(scope="module")
def medium() -> ModuleMap:
    return discover(meter.phi3_medium(), "phi3-medium")


def plan(medium: ModuleMap, scenario: int, gigabytes: int, **training: Any) -> Plan:
    config = replace(default_config("phi3-medium"), modules=SIX[scenario - 1].modules)
    device = Device("cuda:0", gigabytes * 10**9, gigabytes * 10**9, bfloat16=True)
    return make_plan(replace(config, training=replace(config.training, **training)), medium, device)


def test_small_states_take_fused_adamw_and_large_ones_are_paged(medium: ModuleMap) -> None:
    lora, full, tight = plan(medium, 5, 80), plan(medium, 3, 80), plan(medium, 5, 16)
    assert lora.performance.optim == "adamw_torch_fused"
    assert "its state takes only 786 MB" in lora.performance.why["optim"]
    assert lora.memory["optimizer"] == 8 * lora.stored
    assert "optimizer, paged" not in lora.memory
    assert full.performance.optim == tight.performance.optim == "paged_adamw_8bit"
    assert "would take 3.41 GB" in full.performance.why["optim"]
    assert full.memory["optimizer, paged"] > 0
    unknown = make_plan(study_job("phi3-medium", SIX[4]), medium, Device("cuda:0", bfloat16=True))
    assert unknown.performance.optim == "paged_adamw_8bit"
    cpu = make_plan(default_config("phi3-medium"), medium, devices.CPU)
    assert (cpu.performance.optim, cpu.performance.why["optim"]) == ("adamw_torch_fused", "AdamW, fused")


def test_what_is_set_stays_and_the_study_keeps_its_optimizer(medium: ModuleMap) -> None:
    assert plan(medium, 5, 80, optim="paged_adamw_8bit").performance.optim == "paged_adamw_8bit"
    assert plan(medium, 3, 80, optim="adamw_torch").performance.optim == "adamw_torch_fused"
    assert study_job("phi3-medium", SIX[2]).training.optim == "paged_adamw_8bit"


@pytest.fixture
def paging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU has no paged memory: mark what a GPU would page."""
    from bitsandbytes import functional
    from bitsandbytes.optim.optimizer import Optimizer8bit

    def buffer(self: Any, weight: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        made = torch.zeros_like(weight, dtype=dtype)
        made.is_paged = self.is_paged and weight.numel() >= 1e5  # type: ignore[attr-defined]
        return made

    monkeypatch.setattr(Optimizer8bit, "get_state_buffer", buffer)
    monkeypatch.setattr(functional, "prefetch_tensor", lambda *_: None)


def optimizer_of(weights: list[torch.nn.Parameter]) -> Any:
    optimizer = bitsandbytes.optim.AdamW(weights, lr=0.1, optim_bits=8, is_paged=True)
    keep_paged(optimizer)
    return optimizer


def step(optimizer: Any, weights: list[torch.nn.Parameter], seed: int) -> None:
    torch.manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()


@pytest.mark.usefixtures("paging")
def test_states_are_paged_after_a_resume_and_go_on_the_same() -> None:
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(size)) for size in SIZES]
    optimizer = optimizer_of(weights)
    step(optimizer, weights, 1)
    saved = optimizer.state_dict()
    copies = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    resumed = optimizer_of(copies)
    resumed.load_state_dict(saved)

    for weight, copy in zip(weights, copies, strict=True):
        before, after = optimizer.state[weight], resumed.state[copy]
        assert before.keys() == after.keys()
        assert getattr(after["state1"], "is_paged", False) == (copy.numel() >= 100_000)
        for name in ("state1", "state2"):
            assert after[name].dtype == before[name].dtype
            assert torch.equal(after[name], before[name])
            assert after[name].data_ptr() != before[name].data_ptr()
    for seed in (2, 3):
        step(optimizer, weights, seed)
        step(resumed, copies, seed)
    assert all(torch.equal(weight, copy) for weight, copy in zip(weights, copies, strict=True))
