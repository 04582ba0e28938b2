"""The loop in this process: what it trains, how it measures its loss, what it saves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.lab import small_config
from trainer import loop
from trainer.config import AdapterConfig, ModelConfig, RunConfig, Tick
from trainer.errors import InvalidConfig, UserError

Events = list[dict[str, Any]]
Train = Callable[[RunConfig], Events]
NEW_TOKENS = tuple(f"<|new-{number}|>" for number in range(20))  # more than the padded vocabulary has room for


@pytest.fixture
def train(tmp_path: Path, models_dir: Path) -> Train:
    """Trains a configuration in tmp_path/run and gives back its events."""

    def run(config: RunConfig) -> Events:
        events: Events = []
        places = loop.Places(tmp_path / "run", models_dir, tmp_path / "data")
        places.folder.mkdir(exist_ok=True)
        shutil.rmtree(places.folder / "checkpoints", ignore_errors=True)  # else it would go on from there
        loop.train(config, places, lambda type, **values: events.append({"type": type, **values}), lambda: False)
        return events

    return run


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=4)


def losses(events: Events) -> list[float]:
    return [event["loss"] for event in events if event["type"] == "metrics"]


def evals(events: Events) -> list[float]:
    return [event["eval_loss"] for event in events if event["type"] == "eval"]


def adapted(folder: Path, base: Any) -> torch.Tensor:
    ids = torch.arange(3, 60).unsqueeze(0)
    with torch.no_grad():
        return PeftModel.from_pretrained(base, str(folder)).eval()(input_ids=ids).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("names", [["lm_head"], ["lm_head", "q_proj"]])
def test_lora_on_the_head_trains(names: list[str], config: RunConfig, train: Train) -> None:
    ticks = tuple(Tick(name) for name in names)
    events = train(replace(config, modules=ticks))
    assert evals(events)[-1] < evals(events)[0]
    assert any("whole logits" in event.get("text", "") for event in events)
    assert all(event["tokens_per_second"] > 0 for event in events if event["type"] == "metrics")


def test_both_ways_to_the_loss_give_the_same_losses(
    config: RunConfig, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, adapter=AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.0))
    fused = train(config)
    monkeypatch.setattr("trainer.trainers._head_is_plain", lambda model: False)
    whole = train(config)
    assert not any("whole logits" in event.get("text", "") for event in fused)
    assert losses(fused) == pytest.approx(losses(whole), rel=1e-5)


BASES = [("phi3", "nf4"), ("llama", "nf4"), ("gpt2", "nf4"), ("moe", "nf4"), ("phi3", "int8"), ("gpt2", "int8")]


@pytest.mark.parametrize(("kind", "quantization"), BASES)
def test_quantised_bases_train_every_treatment(
    kind: str, quantization: Any, config: RunConfig, train: Train, models_dir: Path
) -> None:
    """QLoRA on the CPU, with a linear trained in full in float32; an eval between steps changes nothing."""
    names = {"phi3": ("q_proj", "o_proj"), "llama": ("q_proj", "o_proj"), "moe": ("q_proj", "o_proj")}
    lora, full = names.get(kind, ("c_attn", "attn.c_proj"))
    ticks = (Tick(lora), Tick(full, "full"))
    # an eval draws a seed for its order of data, after which dropout would draw others
    adapter = replace(config.adapter, lora_dropout=0.0)
    config = replace(config, model=ModelConfig(name=kind, quantization=quantization), modules=ticks, adapter=adapter)
    often = train(replace(config, training=replace(config.training, eval_steps=1)))
    seldom = train(replace(config, training=replace(config.training, eval_steps=4)))
    assert losses(often) == losses(seldom)
    assert evals(often)[-1] < evals(often)[0]


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_train_alone_and_travel_with_the_adapter(
    tied: bool, config: RunConfig, train: Train, models_dir: Path, tmp_path: Path
) -> None:
    model = ModelConfig(name="llama" if tied else "phi3", quantization="none", new_tokens=NEW_TOKENS)
    events = train(replace(config, model=model, modules=(Tick("o_proj"),)))
    assert evals(events)[-1] < evals(events)[0]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "adapter")
    assert tokenizer.convert_tokens_to_ids(NEW_TOKENS[-1]) == len(tokenizer) - 1 >= 300
    found = []
    for seed in (1, 2):  # rows of new tokens start at random, and the adapter must not depend on them
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(models_dir / model.name)
        base.resize_token_embeddings(len(tokenizer))
        found.append(adapted(tmp_path / "run" / "adapter", base))
    assert torch.equal(found[0], found[1])


def test_new_tokens_that_nothing_trains_are_warned_of(config: RunConfig, models_dir: Path) -> None:
    from trainer.__main__ import _plan_of

    model = replace(config.model, new_tokens=NEW_TOKENS)
    adapter = replace(config.adapter, train_new_tokens=False)
    plan = _plan_of(replace(config, model=model, adapter=adapter, modules=(Tick("lm_head", "full"),)), models_dir)
    assert [warning.problem for warning in plan.warnings] == [
        "The 20 new tokens have rows in embed_tokens that nothing trains."
    ]
    assert plan.trainable == 315 * 32, "295 tokens of the tokenizer and 20 new ones, each a row of the head"


def test_pissa_is_saved_as_plain_lora(config: RunConfig, train: Train, models_dir: Path, tmp_path: Path) -> None:
    adapter = AdapterConfig(r=4, lora_alpha=4, lora_dropout=0.0, init_lora_weights="pissa")
    config = replace(config, adapter=adapter, modules=(Tick("o_proj"), Tick("down_proj")))
    events = train(config)
    base = AutoModelForCausalLM.from_pretrained(models_dir / "phi3")
    rows = torch.arange(3, 60).unsqueeze(0)
    plain = base(input_ids=rows).logits
    assert evals(events)[-1] < evals(events)[0]
    assert 1e-6 < float((adapted(tmp_path / "run" / "adapter", base) - plain).abs().max()) < 1.0


@pytest.mark.parametrize("tick", [Tick("q_proj"), Tick("embed_tokens")])
def test_pissa_is_refused_where_it_cannot_start(tick: Tick, config: RunConfig, train: Train) -> None:
    config = replace(config, adapter=replace(config.adapter, init_lora_weights="pissa"), modules=(tick,))
    with pytest.raises(InvalidConfig, match="PiSSA"):
        train(config)


def test_a_model_that_changed_since_its_plan_does_not_train(config: RunConfig, train: Train, tmp_path: Path) -> None:
    train(config)
    (tmp_path / "run" / "plan.json").write_text('{"receipts": [], "trainable": 1}')
    with pytest.raises(UserError, match="changed"):
        train(config)
