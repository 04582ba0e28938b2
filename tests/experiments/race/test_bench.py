"""The bench trains as a run does, whatever was trained on it before, and leaves the base bit for bit as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import set_seed

from tests.support.lab import small_config
from trainer.common.errors import UserError
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick
from trainer.experiments.race.opening import Opened, open_race
from trainer.experiments.race.race import Stopped, short_run
from trainer.runs import row_losses
from trainer.training import adapter, loop
from trainer.training.loop import RunPaths

STEPS = 6
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class Table:
    """An opened race, and the switch that stops it."""

    opened: Opened
    config: RunConfig
    stop: list[bool]

    def train(self, config: RunConfig, factor: float = 1.0, steps: int = STEPS) -> Any:
        return self.opened.bench.train(short_run(config, factor, steps), self.opened.shape.held_out)


@pytest.fixture(
    params=["phi3-none", *(pytest.param(name, marks=pytest.mark.full) for name in ("llama-nf4", "gpt2-none"))]
)
def table(request: pytest.FixtureRequest, tmp_path: Path, models_dir: Path) -> Iterator[Table]:
    name, quantization = request.param.split("-")
    config = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=STEPS)
    config = replace(config, model=ModelConfig(name=name, quantization=quantization), modules=())
    stop = [False]
    paths = RunPaths(tmp_path / "runs" / "races", models_dir, tmp_path / "data")
    yield Table(open_race(config, paths, (), lambda *_, **__: None, lambda: stop[0]), config, stop)


def fingerprint(base: Any) -> dict[str, Any]:
    """Everything of a model that a training could leave behind."""
    values = {
        name: (digest(value), value.dtype)
        for name, value in base.state_dict(keep_vars=True).items()
        if isinstance(value, torch.Tensor) and value.numel()
    }
    return {
        "values": values,
        "trains": [name for name, weight in base.named_parameters() if weight.requires_grad],
        "gradients": [name for name, weight in base.named_parameters() if weight.grad is not None],
        "modules": [(name, type(module)) for name, module in base.named_modules()],
        "hooks": [
            (name, len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
            for name, module in base.named_modules()
        ],
        "patched": [name for name, module in base.named_modules() if "forward" in vars(module)],
        "attention": base.config._attn_implementation,
        "logits": logits(base),
    }


def digest(value: torch.Tensor) -> str:
    return hashlib.sha256(value.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def logits(base: Any) -> bytes:
    base.eval()
    with torch.no_grad():
        found = base(input_ids=torch.arange(1, 20)[None]).logits
    base.train()
    return bytes(found.float().numpy().tobytes())


def selections(table: Table) -> dict[str, RunConfig]:
    """What a race may train, and what is hard to take off again."""
    config = table.config
    linear = next(arm.config for arm in table.opened.arms if arm.runs).modules
    full = tuple(
        Tick(kind.name, "full") for kind in table.opened.bench.module_map.group("embedding") if kind.treatments
    )
    ticks = {
        "lora": replace(config, modules=linear),
        "vocabulary": replace(config, modules=linear + full),
        "dora": replace(config, modules=linear, adapter=AdapterConfig(r=4, use_dora=True)),
        "recomputed": replace(
            config, modules=linear, training=replace(config.training, activation_checkpointing="on")
        ),
    }
    if config.model.name == "gpt2":
        ticks["biases"] = replace(config, modules=linear, adapter=AdapterConfig(r=4, bias="lora_only"))
    if config.model.name == "phi3":
        slices = tuple(Tick(name) for name in LINEARS)
        ticks["slices"] = replace(config, modules=slices)
        ticks["pissa"] = replace(config, modules=linear, adapter=AdapterConfig(r=4, init_lora_weights="pissa"))
    return ticks


def test_the_base_is_bit_for_bit_as_before_and_no_order_matters(table: Table) -> None:
    base = table.opened.bench.base
    before = fingerprint(base)
    configs = selections(table)
    first = {name: table.train(config) for name, config in configs.items()}
    for name in configs:
        assert fingerprint(base) == before, name
    for name in reversed(configs):
        again = table.train(configs[name])
        assert np.array_equal(again.losses, first[name].losses), name
        assert fingerprint(base) == before, name
    assert first["lora"].loss == first["recomputed"].loss
    assert len({found.loss for found in first.values()}) == len(configs) - 1


def test_an_arm_ends_with_the_loss_of_a_run_of_the_same_configuration(
    table: Table, tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is the project's own: the same rows in the same order, the same schedule, the same scores.

    Loading a model and evaluating draw random numbers, so LoRA is initialized alike here, and has no dropout.
    """
    attach = adapter.attach

    def attach_alike(*values: Any) -> Any:
        set_seed(config.training.seed)
        return attach(*values)

    monkeypatch.setattr(adapter, "attach", attach_alike)
    config = short_run(selections(table)["lora"], 1.0, STEPS)
    config = replace(config, adapter=replace(config.adapter, lora_dropout=0.0))
    table.train(selections(table)["vocabulary"], factor=4)  # something else first
    on_bench = table.opened.bench.train(config, table.opened.shape.held_out)
    folder = tmp_path / "run"
    folder.mkdir()
    loop.train(config, RunPaths(folder, models_dir, tmp_path / "data"), lambda *_, **__: None, lambda: False)
    of_run = row_losses.read(folder)[row_losses.HELD_OUT]
    assert of_run.after is not None and of_run.before is not None
    assert np.array_equal(of_run.tokens, on_bench.tokens)
    assert of_run.after == pytest.approx(on_bench.losses, abs=2e-5)
    assert abs(of_run.after - of_run.before).max() > 0.01


def test_what_goes_wrong_leaves_the_base_alone(table: Table) -> None:
    base, config = table.opened.bench.base, selections(table)["vocabulary"]
    before = fingerprint(base)
    wild = replace(config, training=replace(config.training, learning_rate=1.0, max_grad_norm=0, warmup_ratio=0))
    wild = replace(wild, adapter=AdapterConfig(r=4, lora_alpha=65536))
    assert table.train(wild).loss > 20  # infinite where it diverged
    assert fingerprint(base) == before
    with pytest.raises(UserError, match="matches a module"):
        table.train(replace(config, modules=(Tick("nothing"),)))
    table.stop[0] = True
    with pytest.raises(Stopped):
        table.train(config)
    assert fingerprint(base) == before
