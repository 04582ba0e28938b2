"""Frozen linears in FP8, on torch's own CPU kernels: values, gradients, what is kept, whole runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from tests.support.lab import plan_of, small_config
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick
from trainer.models.discovery.discover import discover
from trainer.models.locations import load_config
from trainer.training import loop
from trainer.training.loading import load_model
from trainer.training.quantization.fp8_linear import Fp8Linear

NOISE = 0.045
"""Relative error of a product of two matrices in float8_e4m3fn, which has 3 bits after the point."""


@torch.no_grad()
def close(found: torch.Tensor, exact: torch.Tensor) -> bool:
    return float((found.float() - exact.float()).norm() / exact.float().norm()) < NOISE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
def test_values_and_gradients_are_those_of_the_linear(dtype: torch.dtype, scale: float) -> None:
    """At any scale, with rows of unlike size, and with rows of zeros."""
    torch.manual_seed(0)
    plain = nn.Linear(960, 640, bias=False).to(dtype).requires_grad_(False)
    plain.weight *= torch.linspace(0, 3, 640)[:, None]
    input = (torch.randn(2, 40, 960) * scale * torch.linspace(0, 3, 40)[:, None]).to(dtype)
    first, second = (input.clone().requires_grad_() for _ in range(2))
    linear = Fp8Linear(plain.weight.data, None)
    exact, found = plain(first), linear(second)
    gradient = torch.randn_like(exact)
    exact.backward(gradient)
    found.backward(gradient)
    assert first.grad is not None and second.grad is not None
    assert found.dtype == second.grad.dtype == dtype
    assert close(found, exact) and close(second.grad, first.grad)
    assert not found[0, 0].any(), "a row of zeros"
    assert close(linear.dequantized(), plain.weight)


def test_a_token_does_not_depend_on_the_others_in_its_batch() -> None:
    linear = Fp8Linear(torch.randn(64, 96), None)
    input = torch.randn(9, 96)
    input[1] *= 1000
    assert torch.equal(linear(input)[3:5], linear(input[3:5]))


def test_it_compiles_as_one_graph() -> None:
    linear = Fp8Linear(torch.randn(64, 96), nn.Parameter(torch.randn(64), requires_grad=False))
    first, second = (torch.ones(5, 96, requires_grad=True) for _ in range(2))
    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    linear(first).square().sum().backward()
    compiled(second).square().sum().backward()
    assert first.grad is not None and second.grad is not None
    assert torch.allclose(first.grad, second.grad, rtol=0.02)


def test_no_input_is_kept_for_the_backward_pass() -> None:
    """A frozen linear's input is needed for no gradient."""
    linear, kept = Fp8Linear(torch.randn(64, 96), None), list[torch.Tensor]()

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        linear(torch.randn(50, 96, requires_grad=True))
    assert {value.data_ptr() for value in kept} <= {linear.weight.data_ptr(), linear.scale.data_ptr()}


@pytest.mark.parametrize("kind", ["phi3", "gpt2", "moe"])
def test_the_plan_says_which_linears_are_in_fp8(kind: str, tmp_path: Path, models_dir: Path) -> None:
    """All but the head and what is trained in full; they come near the model's own logits, and keep their bytes."""
    full = "attn.c_proj" if kind == "gpt2" else "o_proj"
    config = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=1)
    config = replace(
        config,
        model=ModelConfig(name=kind, quantization="fp8", dtype="bfloat16"),
        modules=(Tick("c_attn" if kind == "gpt2" else "q_proj"), Tick(full, "full")),
    )
    plan, module_map = plan_of(config, models_dir), discover(load_config(config.model, models_dir), kind)
    model = load_model(config.model, models_dir, plan, module_map, lambda *_, **__: None)
    linears = {name: module for name, module in model.named_modules() if isinstance(module, Fp8Linear)}
    assert sum(linear.weight.numel() for linear in linears.values()) == plan.memory["quantized weights"] > 0
    assert not any(name.endswith((full, "lm_head")) for name in linears)
    exact = AutoModelForCausalLM.from_pretrained(models_dir / kind, dtype=torch.float32).eval()
    ids = torch.arange(3, 60).unsqueeze(0)
    with torch.no_grad():
        difference = model.eval()(input_ids=ids).logits.float() - exact(input_ids=ids).logits
    assert float(difference.std() / exact(input_ids=ids).logits.std()) < 0.15


def test_a_run_on_an_fp8_base_learns_as_on_the_model_itself(tmp_path: Path, models_dir: Path) -> None:
    """It learns as on an unquantized base, which plain PEFT loads the adapter on."""
    config = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=8)
    adapter = AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.0)
    config = replace(config, model=ModelConfig(name="phi3", quantization="fp8"), adapter=adapter)
    config = replace(config, modules=(Tick("q_proj"), Tick("down_proj")))
    events = trained(config, tmp_path, models_dir)
    evals = [event["eval_loss"] for event in events if event["type"] == "eval"]
    assert evals[-1] < evals[0]
    unquantized = trained(replace(config, model=replace(config.model, quantization="none")), tmp_path, models_dir)
    exact = [event["eval_loss"] for event in unquantized if event["type"] == "eval"]
    assert evals == pytest.approx(exact, rel=0.01) and evals != exact
    ids = torch.arange(3, 60).unsqueeze(0)
    found = []
    for quantization in ("fp8", "none"):
        base = AutoModelForCausalLM.from_pretrained(models_dir / "phi3")
        model = PeftModel.from_pretrained(base, str(tmp_path / f"run-{quantization}" / "adapter")).eval()
        with torch.no_grad(), model.disable_adapter():
            plain = model(input_ids=ids).logits
        with torch.no_grad():
            found.append(model(input_ids=ids).logits - plain)
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 0.2, "both adapters change the model alike"


def trained(config: RunConfig, folder: Path, models_dir: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    paths = loop.RunPaths(folder / f"run-{config.model.quantization}", models_dir, folder / "data")
    paths.folder.mkdir()
    loop.train(config, paths, lambda type, **values: events.append({"type": type, **values}), lambda: False)
    return events
