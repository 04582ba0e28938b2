"""Layers compile once: a graph for training and one for evaluation, whatever the batches hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor.runtime import cache_dir_utils
from transformers import AutoModelForCausalLM, TrainerCallback

from tests.support import varlen
from tests.support.lab import small_config
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick
from trainer.data.readers.uploads import keep_data
from trainer.models.attention_setting import use_attention
from trainer.planning.attention import SDPA, VARLEN
from trainer.training import attention, compilation, loop
from trainer.training.trainer import build_trainer

Graphs = list[Any]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """What is compiled, traced as for a GPU; nothing is built. One shape per batch is all that is allowed for."""
    found: Graphs = []

    def backend(graph: Any, _inputs: Any) -> Callable[..., Any]:
        found.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(compilation, "BACKEND", backend)
    monkeypatch.setattr(compilation, "on_gpu", lambda: True)
    return found


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Texts of the same length, so that all batches have one shape."""
    config = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=3)
    rows = [{"instruction": f"Is it {number}?", "response": f"It is {number}."} for number in range(10, 42)]
    (tmp_path / "equal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = keep_data(tmp_path / "equal.jsonl", tmp_path / "data")
    return replace(
        config,
        model=ModelConfig(name="llama", quantization="none", dtype="float32"),
        modules=tuple(Tick(name) for name in ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
        adapter=AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.05),
        data=replace(config.data, path=path, eval_fraction=0.25),
        training=replace(
            config.training,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=1,
            packing="off",
            max_length=26,
        ),
    )


def train(config: RunConfig, models_dir: Path, folder: Path, **changes: Any) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []

    def build(config: RunConfig, performance: Any, *rest: Any) -> Any:
        return build_trainer(config, replace(performance, torch_compile=True, **changes), *rest)

    (folder / "run").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "build_trainer", build)
        paths = loop.RunPaths(folder / "run", models_dir, folder / "data")
        loop.train(config, paths, lambda type, **values: events.append({"type": type, **values}), lambda: False)
    return events


@pytest.mark.parametrize(("chosen", "every"), [(SDPA, 0), (VARLEN, 1)])
def test_a_run_compiles_each_kind_of_layer_once(
    chosen: str, every: int, config: RunConfig, graphs: Graphs, models_dir: Path, tmp_path: Path
) -> None:
    varlen.install()
    events = train(config, models_dir, tmp_path, attn_implementation=chosen, every_n_layers=every)
    assert not any("not compiled" in event.get("text", "") for event in events)
    assert len([event for event in events if event["type"] == "metrics"]) == 3
    assert len([event for event in events if event["type"] == "eval"]) >= 2
    assert len(graphs) == 2, "all three layers, three steps and all evaluations: one with gradients, one without"
    assert not torch._dynamo.utils.counters["graph_break"]


def test_how_many_examples_rows_hold_changes_no_graph(graphs: Graphs, models_dir: Path) -> None:
    varlen.install()
    model = AutoModelForCausalLM.from_pretrained(models_dir / "llama")
    use_attention(model, VARLEN)
    model.register_forward_pre_hook(compilation._free_number_of_examples, with_kwargs=True)
    for layer in model.model.layers:
        layer.compile(backend=compilation.BACKEND, dynamic=False)
    for lengths in ([32], [20, 12], [5, 6, 7, 14]):
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        model(input_ids=torch.arange(32)[None], use_cache=False, **attention.packed(positions, VARLEN))
    assert len(graphs) == 1


def test_liger_takes_over_where_compiling_fails(
    config: RunConfig, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is stopped before the first step, which only a GPU can compute with these kernels."""
    monkeypatch.setattr(compilation, "BACKEND", "no such compiler")
    monkeypatch.setattr(compilation, "on_gpu", lambda: True)
    texts: list[str] = []
    kernels: set[str] = set()

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
            kernels.update(module.forward.__qualname__.partition(".")[0] for module in model.modules())
            raise KeyboardInterrupt

    def build(config: RunConfig, performance: Any, *rest: Any) -> Any:
        trainer = build_trainer(config, replace(performance, torch_compile=True), *rest)
        trainer.add_callback(Stop())
        return trainer

    monkeypatch.setattr(loop, "build_trainer", build)
    (tmp_path / "run").mkdir()
    paths = loop.RunPaths(tmp_path / "run", models_dir, tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, paths, lambda _, **values: texts.append(values.get("text", "")), lambda: False)
    assert "LigerRMSNorm" in kernels
    assert [text for text in texts if "not compiled" in text or "Liger kernels are used" in text] == texts[-2:]


def test_what_is_compiled_is_kept_beside_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    compilation.keep_compiled(tmp_path / "compiled")
    assert cache_dir_utils.cache_dir() == str(tmp_path / "compiled")
    (tmp_path / "compiled" / "kernel").write_bytes(b"0" * 11)
    compilation.keep_compiled(tmp_path / "compiled")
    assert (tmp_path / "compiled").exists()
    monkeypatch.setattr(compilation, "CACHE_LIMIT", 10)
    compilation.keep_compiled(tmp_path / "compiled")
    assert not (tmp_path / "compiled").exists()
