"""The loop in this process: what it trains, how it measures its loss, what it saves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from tests.support.lab import plan_of, small_config
from trainer.common.errors import UserError
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick
from trainer.training import adapter, loop

Events = list[dict[str, Any]]
Train = Callable[..., Events]
NEW_TOKENS = tuple(f"<|new-{number}|>" for number in range(20))  # more than the padded vocabulary has room for


@pytest.fixture
def train(tmp_path: Path, models_dir: Path) -> Train:
    """Trains a configuration in tmp_path/run and gives back its events; they are also added to `events`."""

    def run(config: RunConfig, models: Path = models_dir, events: Events | None = None) -> Events:
        events = [] if events is None else events
        paths = loop.RunPaths(tmp_path / "run", models, tmp_path / "data")
        paths.folder.mkdir(exist_ok=True)
        shutil.rmtree(paths.folder / "checkpoints", ignore_errors=True)  # else it would go on from there
        loop.train(config, paths, lambda type, **values: events.append({"type": type, **values}), lambda: False)
        return events

    return run


@pytest.fixture
def own(tmp_path: Path, models_dir: Path) -> Path:
    """A models folder whose phi3 may be changed."""
    shutil.copytree(models_dir / "phi3", tmp_path / "models" / "phi3")
    return tmp_path / "models"


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
        return PeftModel.from_pretrained(base, str(folder)).eval()(input_ids=ids).logits


@pytest.mark.parametrize("names", [["lm_head"], ["lm_head", "q_proj"]])
def test_lora_on_the_head_trains(names: list[str], config: RunConfig, train: Train) -> None:
    ticks = tuple(Tick(name) for name in names)
    events = train(replace(config, modules=ticks))
    assert evals(events)[-1] < evals(events)[0]
    assert any("full logits" in event.get("text", "") for event in events)
    assert all(event["tokens_per_second"] > 0 for event in events if event["type"] == "metrics")


def test_both_ways_to_the_loss_give_the_same_losses(
    config: RunConfig, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, adapter=AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.0))
    fused = train(config)
    monkeypatch.setattr("trainer.training.trainer.head_is_plain", lambda _: False)
    whole = train(config)
    assert not any("full logits" in event.get("text", "") for event in fused)
    assert losses(fused) == pytest.approx(losses(whole), rel=1e-5)


BASES = [
    ("phi3", "nf4"),
    ("llama", "nf4"),
    ("gpt2", "nf4"),
    ("moe", "nf4"),
    ("phi3", "int8"),
    ("gpt2", "int8"),
    ("gpt2", "fp8"),
]


@pytest.mark.parametrize(("kind", "quantization"), BASES)
def test_quantized_bases_train_every_treatment(kind: str, quantization: Any, config: RunConfig, train: Train) -> None:
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


def test_a_routers_loss_is_logged_apart(config: RunConfig, train: Train, models_dir: Path, tmp_path: Path) -> None:
    """The training loss is what the eval loss is: it does not move with the weight of the routers' loss."""
    folder = tmp_path / "models" / "moe"
    shutil.copytree(models_dir / "moe", folder)
    adapter = replace(config.adapter, lora_dropout=0.0)
    config = replace(config, model=ModelConfig(name="moe", quantization="none"), modules=(Tick("q_proj"),))
    first = {}
    for weight in (0.001, 1.0):
        value = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(value | {"router_aux_loss_coef": weight}))
        events = train(replace(config, adapter=adapter), tmp_path / "models")
        first[weight] = next(event for event in events if event["type"] == "metrics")
    assert first[1.0]["loss"] == pytest.approx(first[0.001]["loss"], rel=1e-4)
    assert first[1.0]["router_loss"] == pytest.approx(1000 * first[0.001]["router_loss"], rel=1e-3)
    assert first[1.0]["router_loss"] > 0.1


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
    model = replace(config.model, new_tokens=NEW_TOKENS)
    adapter = replace(config.adapter, train_new_tokens=False)
    plan = plan_of(replace(config, model=model, adapter=adapter, modules=(Tick("lm_head", "full"),)), models_dir)
    (warning,) = [warning for warning in plan.warnings if warning.field == "model.new_tokens"]
    assert "20 new tokens" in warning.problem and "embed_tokens" in warning.problem
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
    size = (tmp_path / "run" / "adapter" / "adapter_model.safetensors").stat().st_size
    assert size == pytest.approx(plan_of(config, models_dir).adapter_bytes, rel=0.03)


@pytest.mark.parametrize(
    ("modules", "settings", "tokens"),
    [
        ((Tick("q_proj"),), {}, ()),
        ((Tick("embed_tokens"),), {}, ()),
        ((Tick("o_proj"), Tick("lm_head", "full")), {}, ()),
        ((Tick("o_proj"),), {}, ("<|pirate|>",)),
        ((Tick("o_proj"),), {"bias": "lora_only"}, ()),
        ((Tick("o_proj", r=2), Tick("down_proj")), {"use_rslora": True}, ()),
    ],
)
def test_pissa_is_refused_where_it_cannot_start_or_be_saved(
    modules: tuple[Tick, ...], settings: dict[str, Any], tokens: tuple[str, ...], config: RunConfig, models_dir: Path
) -> None:
    adapter = replace(config.adapter, init_lora_weights="pissa", **settings)
    plan = plan_of(
        replace(config, adapter=adapter, modules=modules, model=replace(config.model, new_tokens=tokens)), models_dir
    )
    assert ["PiSSA" in issue.problem for issue in plan.issues] == [True]


def test_a_model_that_trains_more_than_planned_does_not_begin(
    config: RunConfig, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = adapter.prepare

    def careless(model: Any, *values: Any) -> None:
        prepare(model, *values)
        model.get_parameter("base_model.model.model.norm.weight").requires_grad = True

    monkeypatch.setattr("trainer.training.adapter.prepare", careless)
    events: Events = []
    with pytest.raises(UserError, match=r"differ at base_model\.model\.model\.norm\.weight"):
        train(config, events=events)
    assert losses(events) == []


def test_a_model_that_changed_since_its_plan_does_not_train(config: RunConfig, train: Train, tmp_path: Path) -> None:
    train(config)
    (tmp_path / "run" / "plan.json").write_text('{"receipts": [], "trainable": 1}')
    with pytest.raises(UserError, match="changed"):
        train(config)


def test_weights_that_lack_a_tensor_do_not_train_and_those_too_many_are_told(
    config: RunConfig, train: Train, own: Path
) -> None:
    file = own / "phi3" / "model.safetensors"
    tensors = load_file(file)
    taken = tensors.pop("model.layers.1.mlp.down_proj.weight")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"lack model\.layers\.1\.mlp\.down_proj\.weight"):
        train(config, own)
    tensors |= {"model.layers.1.mlp.down_proj.weight": taken, "model.layers.9.mlp.down_proj.weight": taken.clone()}
    save_file(tensors, file, {"format": "pt"})
    logs = [event["text"] for event in train(config, own) if event["type"] == "log"]
    assert any("model.layers.9.mlp.down_proj.weight" in text for text in logs), logs


def test_a_tokenizer_without_special_tokens_trains(config: RunConfig, train: Train, models_dir: Path) -> None:
    shutil.copytree(models_dir / "phi3", models_dir / "plain", ignore=shutil.ignore_patterns("tok*", "chat*"))
    vocabulary = models_dir / "phi3" / "tokenizer.json"
    PreTrainedTokenizerFast(tokenizer_file=str(vocabulary)).save_pretrained(models_dir / "plain")
    training = replace(config.training, packing="off", max_steps=2)
    events = train(replace(config, model=replace(config.model, name="plain"), training=training))
    assert evals(events)[-1] < evals(events)[0]


def halve_the_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def move_a_token(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text.replace('"id": 6,', '"id": 300,').replace(": 6,", ": 300,"))


@pytest.mark.parametrize(
    ("damage", "said"), [(halve_the_weights, "weights of halve"), (move_a_token, "tokenizer of move_a_token.*id 300")]
)
def test_damaged_files_of_a_model_are_named(
    damage: Callable[[Path], None], said: str, config: RunConfig, train: Train, models_dir: Path
) -> None:
    name = damage.__name__
    shutil.copytree(models_dir / "phi3", models_dir / name)
    damage(models_dir / name)
    with pytest.raises(UserError, match=said):
        train(replace(config, model=replace(config.model, name=name)))
