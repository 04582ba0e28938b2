"""What is picked for speed: by plan and device, told, kept by a run that goes on, and without a trace in losses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from tests.support import meter, varlen
from tests.support.lab import small_config
from trainer.common import devices
from trainer.common.devices import Device
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick, default_config
from trainer.data import packing
from trainer.models.discovery.autocast import GpuAutocastWidening
from trainer.models.discovery.discover import discover
from trainer.models.module_map import ModuleMap
from trainer.planning.attention import VARLEN
from trainer.planning.performance import PerformanceSettings
from trainer.planning.plan import Plan, make_plan
from trainer.planning.row_width import row_limit
from trainer.planning.scenarios import SIX
from trainer.planning.schedule import Size
from trainer.training import loop
from trainer.training.trainer import build_trainer

Events = list[dict[str, Any]]
Train = Callable[..., Events]


def gpu(gigabytes: float) -> Device:
    return Device("cuda:0", total=int(gigabytes * 1e9), free=int(gigabytes * 1e9), bfloat16=True)


@pytest.fixture(scope="module")
def medium() -> ModuleMap:
    return discover(meter.phi3_medium(), "phi3-medium")


def study(medium: ModuleMap, device: Device, **training: Any) -> Plan:
    config = replace(default_config("phi3-medium"), modules=SIX[4].modules)
    return make_plan(replace(config, training=replace(config.training, **training)), medium, device)


def test_no_more_is_recomputed_than_memory_asks_for(medium: ModuleMap) -> None:
    depths = [
        study(medium, gpu(size), micro_batches="off").performance.every_n_layers for size in (160, 60, 45, 36, 20)
    ]
    assert depths[0] == 0
    assert depths[-1] == 1
    order = [depth or 99 for depth in depths]
    assert order == sorted(order, reverse=True)
    assert len(set(depths)) >= 3, "between none and all there are layers in n"
    for size in (160, 60, 45, 36, 20):
        plan = study(medium, gpu(size))
        assert plan.needed <= 0.85 * size * 1e9
        apart = study(medium, gpu(size), packing="off").performance
        assert apart.per_device_train_batch_size * apart.gradient_accumulation_steps == 64


def test_micro_batches_are_what_is_quickest_in_memory(medium: ModuleMap) -> None:
    roomy, tight = (study(medium, gpu(size), packing="off").performance for size in (160, 12))
    assert roomy.per_device_train_batch_size >= 8, "weights are read less often"
    assert tight.per_device_train_batch_size < 8
    assert study(medium, gpu(12)).warnings == (), "it fits"
    small = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 64}
    assert study(medium, gpu(80), **small).performance.per_device_train_batch_size >= 4
    assert study(medium, gpu(80), **small, micro_batches="off").performance.per_device_train_batch_size == 1
    assert study(medium, replace(devices.CPU, total=10**12), **small).performance.per_device_train_batch_size == 1
    unknown = study(medium, Device("cuda:0", bfloat16=True), **small).performance
    assert (unknown.every_n_layers, unknown.per_device_train_batch_size) == (1, 1)


@pytest.mark.parametrize("size", [160, 80, 48, 24])
def test_a_gpu_computes_about_the_tokens_of_a_step_and_hardly_any_padding(medium: ModuleMap, size: float) -> None:
    """Log-normal lengths, 487 tokens in the mean: rows planned from the mean hold what a step really has."""
    lengths = np.minimum(np.random.default_rng(3).lognormal(5.9, 0.8, 6400).astype(int) + 1, 2048)
    config = replace(default_config("phi3-medium"), modules=SIX[4].modules)
    config = replace(config, training=replace(config.training, max_length=2048))
    data = Size(len(lengths), float(lengths.mean()), int(lengths.max()))
    plan = make_plan(config, medium, gpu(size), data=data)
    rows = plan.performance.per_device_train_batch_size
    layout = packing.Layout(rows, row_limit(config.training, True, data), packed=True, fixed=True)
    steps = [lengths[at : at + 64].tolist() for at in range(0, len(lengths), 64)]
    counts = [len(layout.micro_batches(step)) for step in steps]
    assert np.mean(counts) == pytest.approx(plan.performance.gradient_accumulation_steps, rel=0.15)
    assert lengths.sum() / sum(layout.positions(step) for step in steps) > 0.85


def test_what_is_set_is_not_picked(medium: ModuleMap) -> None:
    on = study(medium, gpu(160), activation_checkpointing="on", torch_compile="on", optim="adamw_torch").performance
    assert (on.every_n_layers, on.torch_compile, on.optim) == (1, True, "adamw_torch_fused")
    off = study(
        medium, gpu(20), activation_checkpointing="off", torch_compile="off", use_liger_kernel="off"
    ).performance
    assert (off.every_n_layers, off.torch_compile, off.use_liger_kernel) == (0, False, False)
    assert off.optim == "paged_adamw_8bit"
    assert PerformanceSettings.from_json(json.loads(json.dumps(off.to_json()))) == off


def test_short_runs_are_not_compiled(medium: ModuleMap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "trainer.planning.performance.find_spec", lambda name: name in ("triton", "liger_kernel") or None
    )
    config = replace(default_config("phi3-medium"), modules=SIX[4].modules)
    sizes = Size(10**3, 100.0), Size(10**6, 100.0)
    short, long = (make_plan(config, medium, gpu(80), data=size).performance for size in sizes)
    assert (short.torch_compile, short.use_liger_kernel) == (False, True)
    assert (long.torch_compile, long.use_liger_kernel) == (True, False)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    config = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=3)
    return replace(
        config,
        model=ModelConfig(name="phi3", quantization="nf4", dtype="float32"),
        modules=(Tick("q_proj"), Tick("down_proj"), Tick("lm_head", "full")),
        adapter=AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.0),
        data=replace(config.data, eval_fraction=0.0),
        training=replace(config.training, per_device_train_batch_size=2, gradient_accumulation_steps=4),
    )


@pytest.fixture
def train(models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train a configuration with changed performance settings; returns its events and the names of what trains."""

    def run(config: RunConfig, **changes: Any) -> Events:
        events: Events = []
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()

        def build(config: RunConfig, performance: PerformanceSettings, model: Any, *rest: Any) -> Any:
            names = [name for name, weight in model.named_parameters() if weight.requires_grad]
            events.append({"type": "names", "names": names})
            return build_trainer(config, replace(performance, **changes), model, *rest)

        monkeypatch.setattr(loop, "build_trainer", build)
        paths = loop.RunPaths(folder, models_dir, tmp_path / "data")
        loop.train(config, paths, lambda type, **values: events.append({"type": type, **values}), lambda: False)
        return events

    return run


def figures(events: Events) -> list[tuple[float, ...]]:
    """Loss, norm of the gradient, accuracy and tokens of every step."""
    keys = ("loss", "grad_norm", "accuracy", "tokens")
    return [tuple(event[key] for key in keys) for event in events if event["type"] == "metrics"]


def names(events: Events) -> list[str]:
    """Of all parameters that train."""
    return next(event["names"] for event in events if event["type"] == "names")


SETTINGS: list[dict[str, Any]] = [
    {"every_n_layers": 2},
    {"torch_compile": True},
    {"attn_implementation": VARLEN},
    {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
    {"every_n_layers": 1},
    {"optim": "adamw_torch"},
]


NOISE = {"float32": 1e-5, "bfloat16": 1e-3}
"""Relative differences of losses, gradient norms and accuracies that another order of sums explains."""

# in bfloat16 what recomputes and what compiles; the others are exact in one number format if they are in another
IN_BFLOAT16 = [pytest.param("bfloat16", part, marks=pytest.mark.full) for part in (SETTINGS[:2], SETTINGS[2:])]


@pytest.mark.parametrize(("dtype", "settings"), [("float32", SETTINGS), *IN_BFLOAT16])
def test_no_performance_setting_changes_what_is_learned(
    dtype: Any, settings: list[dict[str, Any]], config: RunConfig, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.training.compilation.BACKEND", "eager")  # traced as for a GPU; nothing is built
    varlen.install()
    config = replace(config, model=replace(config.model, dtype=dtype))
    plain = train(config)
    assert len(figures(plain)) == 3
    assert figures(plain)[0][0] != figures(plain)[2][0]
    for changes in settings:
        agree(train(config, **changes), plain, NOISE[dtype])


@pytest.mark.full
@pytest.mark.parametrize(("dtype", "noise"), [("float32", 1e-5), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("kind", ["phi3", "llama"])
@pytest.mark.parametrize("every", [0, 2])
def test_inductor_changes_nothing_that_is_learned(
    kind: str, dtype: Any, noise: float, every: int, config: RunConfig, train: Train
) -> None:
    """Compiled for this machine; in bfloat16 it rounds less often than the layers as they are written."""
    ticks = tuple(Tick(name) for name in ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
    config = replace(config, modules=ticks, model=replace(config.model, name=kind, dtype=dtype))
    plain = train(config)
    torch._dynamo.utils.counters.clear()
    compiled = train(config, torch_compile=True, every_n_layers=every)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]
    agree(compiled, plain, noise)


def agree(events: Events, plain: Events, noise: float) -> None:
    """Both trained the same parameters, with the same figures but for `noise` of themselves."""
    assert names(events) == names(plain)
    texts = [event.get("text", "") for event in events]
    assert not any("not compiled" in text or "Attention stays" in text for text in texts)
    for ours, theirs in zip(figures(events), figures(plain), strict=True):
        assert ours == pytest.approx(theirs, rel=noise)


def test_what_cannot_be_compiled_trains_as_it_is(
    config: RunConfig, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = figures(train(config))
    monkeypatch.setattr("trainer.training.compilation.BACKEND", "no such compiler")
    events = train(config, torch_compile=True)
    assert any("not compiled" in event.get("text", "") for event in events)
    assert figures(events) == plain


def test_a_resumed_run_keeps_its_performance_settings(
    config: RunConfig, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins on a roomy machine, and goes on where nothing is free."""
    texts: list[str] = []
    paths = loop.RunPaths(tmp_path / "run", models_dir, tmp_path / "data")
    paths.folder.mkdir()
    steps = 0

    def sink(type: str, **values: Any) -> None:
        nonlocal steps
        steps += type == "metrics"
        texts.extend([values["text"]] if type == "log" else [])

    config = replace(config, training=replace(config.training, activation_checkpointing="auto"))
    loop.train(config, paths, sink, lambda: steps == 0)
    begun = json.loads((paths.folder / "plan.json").read_text())["levers"]
    assert (steps, begun["every_n_layers"]) == (1, 0)
    monkeypatch.setattr(devices, "device", lambda: replace(devices.CPU, total=10**9, free=1))
    loop.train(config, paths, sink, lambda: False)
    assert steps == 3
    told = [text for text in texts if "Performance settings" in text]
    assert len(told) == 2
    assert told[0] == told[1]
    assert "all activations fit" in told[0]
    (tmp_path / "other").mkdir()
    loop.train(config, replace(paths, folder=tmp_path / "other"), sink, lambda: steps == 4)
    assert json.loads((tmp_path / "other" / "plan.json").read_text())["levers"]["every_n_layers"] == 1


def test_evaluations_take_a_tenth_of_the_time_at_most(config: RunConfig, models_dir: Path, tmp_path: Path) -> None:
    """Of 64 rows an eighth is held out: 8 forward passes, a third of a step's cost each, beside 60 trained rows."""
    found: list[int] = []

    def sink(type: str, **values: Any) -> None:
        found.extend([values["step"]] if type == "eval" else [])

    training = replace(config.training, max_steps=15, gradient_accumulation_steps=2, eval_steps=0)
    config = replace(config, training=training, data=replace(config.data, eval_fraction=0.125))
    paths = loop.RunPaths(tmp_path / "run", models_dir, tmp_path / "data")
    paths.folder.mkdir()
    loop.train(config, paths, sink, lambda: False)
    assert found == [0, 8, 15]


@pytest.mark.parametrize(
    ("kind", "ticks"),
    [
        ("phi3", (Tick("q_proj"), Tick("embed_tokens", "full"))),
        ("gpt2", (Tick("c_attn"), Tick("mlp.c_proj"), Tick("mlp.c_fc"))),
    ],
)
def test_the_residual_stream_stays_bfloat16(
    kind: str, ticks: tuple[Tick, ...], config: RunConfig, models_dir: Path, tmp_path: Path
) -> None:
    """Embeddings trained in full are float32 masters, and a GPU computes LayerNorm and powers in float32; what flows
    through the layers and into their linears is not."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    seen: set[torch.dtype] = set()

    def watch(module: Any, inputs: Any) -> None:
        if isinstance(module, GradientCheckpointingLayer | LoraLayer) and module.training:
            seen.add(inputs[0].dtype)

    config = replace(config, modules=ticks, model=replace(config.model, name=kind, dtype="bfloat16"))
    paths = loop.RunPaths(tmp_path / "bf16", models_dir, tmp_path / "data")
    paths.folder.mkdir()
    hook = torch.nn.modules.module.register_module_forward_pre_hook(watch)
    try:
        with GpuAutocastWidening():
            loop.train(config, paths, lambda *_, **__: None, lambda: False)
    finally:
        hook.remove()
    assert seen == {torch.bfloat16}
