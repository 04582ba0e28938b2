"""What each module earned: shares that add up, in the order in which they were planted, on real short runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.support import tiny
from tests.support.lab import small_config
from trainer.common.errors import UserError
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick
from trainer.experiments.attribution import sentences
from trainer.runs import attribution, row_losses
from trainer.runs.attribution import Attribution
from trainer.training import loop
from trainer.training.attribution.path import measure
from trainer.training.attribution.trained_run import open_run
from trainer.training.loop import RunPaths

LORA = AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.0)
Paths = Callable[[str], RunPaths]


@pytest.fixture
def paths(tmp_path: Path, models_dir: Path) -> Paths:
    # every token uses all experts: where a choice of experts changes, a loss jumps, which no gradient sees
    experts = tiny.save_model(models_dir / "experts", "moe") / "config.json"
    experts.write_text(json.dumps(json.loads(experts.read_text()) | {"num_experts_per_tok": 4}))

    def of(name: str) -> RunPaths:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return RunPaths(folder, models_dir, tmp_path / "data")

    return of


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=12)


def trained(config: RunConfig, paths: RunPaths) -> RunPaths:
    loop.train(config, paths, lambda *_, **__: None, lambda: False)
    return paths


def measured(config: RunConfig, paths: RunPaths) -> Attribution:
    return measure(open_run(config, paths, lambda *_: None), 12, lambda *_: None, time.monotonic())


CASES: dict[str, tuple[str, list[Tick], AdapterConfig]] = {
    "slices, a head in full": ("phi3", [Tick("q_proj"), Tick("v_proj"), Tick("lm_head", "full")], LORA),
    "a tied embedding in full": ("llama", [Tick("q_proj"), Tick("embed_tokens", "full")], LORA),
    "LoRA on an embedding": ("llama", [Tick("down_proj"), Tick("embed_tokens")], LORA),
    "Conv1D with biases": ("gpt2", [Tick("c_attn"), Tick("mlp.c_proj")], replace(LORA, bias="lora_only")),
    "experts": ("experts", [Tick("q_proj"), Tick("gate_up_proj"), Tick("experts.down_proj")], LORA),
    "DoRA on slices": ("phi3", [Tick("q_proj"), Tick("v_proj"), Tick("down_proj")], replace(LORA, use_dora=True)),
    "PiSSA": ("llama", [Tick("q_proj"), Tick("up_proj")], replace(LORA, init_lora_weights="pissa")),
    "rsLoRA": ("llama", [Tick("k_proj", r=2, lora_alpha=4), Tick("gate_proj")], replace(LORA, use_rslora=True)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_shares_add_up_to_the_gain_of_the_run_itself(case: str, config: RunConfig, paths: Paths) -> None:
    kind, ticks, adapter = CASES[case]
    config = replace(config, model=ModelConfig(name=kind, quantization="none"), modules=tuple(ticks), adapter=adapter)
    run = trained(config, paths("run"))
    found = measured(config, run)
    own = row_losses.read(run.folder)[row_losses.HELD_OUT]
    assert own.before is not None and own.after is not None
    assert found.before.tolist() == pytest.approx(own.before.tolist(), rel=1e-4)
    assert found.after.tolist() == pytest.approx(own.after.tolist(), rel=1e-4)
    assert found.gain > 0.02
    assert found.adds_up, found.error
    assert {part.kind for part in found.parts} == {tick.name for tick in ticks}
    assert all(part.share != 0 for part in found.parts)


def test_new_tokens_and_a_quantized_base_are_held_as_in_the_run(config: RunConfig, paths: Paths) -> None:
    model = ModelConfig(name="phi3", quantization="nf4", new_tokens=("<|owl|>",))
    recomputed = replace(config.training, activation_checkpointing="on")
    ticks = (Tick("o_proj"), Tick("gate_proj"))
    config = replace(config, model=model, modules=ticks, adapter=LORA, training=recomputed)
    run = trained(config, paths("run"))
    found = measured(config, run)
    own = row_losses.read(run.folder)[row_losses.HELD_OUT]
    assert own.after is not None
    assert found.after.tolist() == pytest.approx(own.after.tolist(), rel=1e-4)
    assert found.adds_up
    assert {part.treatment for part in found.parts} == {"lora", "rows"}


def test_shares_are_in_the_order_that_was_planted_and_nothing_earns_nothing(config: RunConfig, paths: Paths) -> None:
    rates = {"down_proj": 1e-2, "o_proj": 5e-4, "q_proj": 1e-5}
    ticks = tuple(Tick(name, lr=rate) for name, rate in rates.items())
    config = replace(config, model=ModelConfig(name="llama", quantization="none"), modules=ticks, adapter=LORA)
    run = trained(config, paths("run"))
    weights = load_file(run.folder / "adapter/adapter_model.safetensors")
    erased = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
    weights[erased].zero_()
    save_file(weights, run.folder / "adapter/adapter_model.safetensors", {"format": "pt"})
    found = measured(config, run)
    assert found.adds_up
    by_kind = {name: sum(part.share for part in found.parts if part.kind == name) for name in rates}
    assert sorted(by_kind, key=lambda name: -by_kind[name]) == list(rates)
    assert [part.share for part in found.parts if part.module == "model.layers.1.mlp.down_proj"] == [0.0]
    outputs = {part.kind: part.output for part in found.parts if part.layer == 0}
    assert all(output is not None for output in outputs.values())
    assert sorted(outputs, key=lambda name: -(outputs[name] or 0)) == list(rates)
    off = {losses.kind: float((losses.off - found.after).sum()) for losses in found.kinds}
    only = {losses.kind: float((found.before - losses.only).sum()) for losses in found.kinds}
    assert max(off, key=lambda name: off[name]) == max(only, key=lambda name: only[name]) == "down_proj"


def test_what_does_not_add_up_says_so(config: RunConfig, paths: Paths) -> None:
    ticks = tuple(map(Tick, ("q_proj", "gate_up_proj", "experts.down_proj")))
    config = replace(config, model=ModelConfig(name="moe", quantization="none"), modules=ticks, adapter=LORA)
    found = measured(config, trained(config, paths("run")))
    assert found.points == attribution.POINTS[-1]
    assert not found.adds_up
    assert "do not rely on them" in " ".join(sentences(found))


def test_it_is_read_back_as_it_was_measured_and_damage_is_nothing(tmp_path: Path) -> None:
    losses = np.array([2.0, 3.0])
    part = attribution.Part("model.layers.0.q", "q", "lora", 0, 0.25, 0.01)
    kind = attribution.KindLosses("q", "lora", losses, losses / 2)
    found = Attribution(3, 8, np.array([2.0, 6.0]), losses, losses / 2, 5, (part,), (kind,), 1.5, "cpu")
    attribution.record(tmp_path, found)
    again = attribution.read(tmp_path)
    assert again is not None
    assert again.to_json() == found.to_json()
    assert (again.gain, again.adds_up) == (0.3125, False)
    damaged = found.to_json() | {"parts": [{**found.to_json()["parts"][0], "kind": "k"}]}
    for text in ('{"step": 3, "tokens": [1, "x"]}', json.dumps(damaged), "[", "[]"):
        (tmp_path / attribution.FILE).write_text(text)
        assert attribution.read(tmp_path) is None


def test_a_run_without_held_out_rows_or_adapter_says_so(config: RunConfig, paths: Paths) -> None:
    with pytest.raises(UserError, match="no adapter yet"):
        measured(config, paths("never trained"))
    nothing = replace(config, data=replace(config.data, eval_fraction=0.0))
    with pytest.raises(UserError, match="holds no examples out"):
        measured(nothing, paths("nothing held out"))
