"""Image-text models whose language model is trained on text: found, trained, saved for the published checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoTokenizer, BlipConfig, Florence2Config

from tests.support import exercise, wrappers
from tests.support.lab import small_config
from trainer.common.errors import UserError
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick
from trainer.data.preparation import prepare
from trainer.export.adapter_zip import model_card
from trainer.models.discovery.discover import discover
from trainer.models.locations import load_config
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import make_plan
from trainer.runs.store import RunStore
from trainer.training import loop

PLAIN = AdapterConfig(r=2, lora_alpha=4, lora_dropout=0.0)
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@cache
def mapped(kind: str) -> ModuleMap:
    return discover(wrappers.config(kind), kind)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("wrappers")
    for kind in ("mistral3", "qwen2_5_vl"):
        wrappers.save_wrapper(folder / kind, kind)
    assert "language_model.model.embed_tokens.weight" in load_file(folder / "mistral3/model.safetensors")
    yield folder


def run_config(kind: str, folder: Path, **training: Any) -> RunConfig:
    config = small_config(folder / "data", folder / "rows.jsonl", steps=4, **training)
    ticks = tuple(Tick(name) for name in LINEARS)
    return replace(config, model=ModelConfig(name=kind, quantization="none"), modules=ticks, adapter=PLAIN)


def trained(config: RunConfig, models: Path, folder: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    shutil.rmtree(folder / "run", ignore_errors=True)
    (folder / "run").mkdir()
    paths = loop.RunPaths(folder / "run", models, folder / "data")
    loop.train(config, paths, lambda type, **values: events.append({"type": type, **values}), lambda: False)
    return events


def values(events: list[dict[str, Any]], key: str) -> list[float]:
    return [event[key] for event in events if key in event]


@pytest.mark.parametrize("kind", wrappers.CONFIGS)
def test_the_language_model_is_found_and_the_tower_cannot_be_ticked(kind: str) -> None:
    """The text model's kinds have their plain names; what text never reaches says so."""
    module_map = mapped(kind)
    published = AutoModelForImageTextToText.from_config(wrappers.config(kind))
    modules = dict(published.named_modules())
    assert module_map.parameters == sum(parameter.numel() for parameter in published.parameters())
    for name in LINEARS:
        found = module_map.get(name)
        assert found is not None
        assert found.treatments == ("lora", "full")
        assert len(found.modules) == 2
        assert all("language_model" in module and module in modules for module in found.modules)
    beside = [k for k in module_map.kinds if "language_model" not in k.modules[0] and k.group != "embedding"]
    assert len(beside) > 3
    assert all(not kind.treatments and "Text never" in kind.reason for kind in beside)


@pytest.mark.parametrize("treatment", ["lora", "full"])
@pytest.mark.parametrize("kind", wrappers.CONFIGS)
def test_every_tick_trains_what_it_names_and_reloads(kind: str, treatment: Any, tmp_path: Path) -> None:
    config = wrappers.config(kind)
    names = [k.name for k in mapped(kind).kinds if treatment in k.treatments and not k.tied_to and not k.slice_of]
    run = exercise.train(exercise.build(config, [Tick(name, treatment) for name in names], PLAIN, mapped(kind)))
    assert run.moved() == {name for name, weight in run.model.named_parameters() if weight.requires_grad}
    again = exercise.reloaded(run, config, tmp_path)
    torch.testing.assert_close(exercise.logits(again, config), exercise.logits(run.model, config), rtol=0, atol=1e-6)


RUNS = [("mistral3", "none"), ("qwen2_5_vl", "none"), ("mistral3", "nf4")]


@pytest.mark.parametrize(("kind", "quantization"), RUNS)
def test_the_adapter_of_a_run_fits_the_published_checkpoint(
    kind: str, quantization: Any, models_dir: Path, tmp_path: Path
) -> None:
    """The whole way, then plain PEFT on the published class: it computes the eval loss that the run ended with."""
    config = run_config(kind, tmp_path, activation_checkpointing="on" if quantization == "none" else "off")
    config = replace(config, model=replace(config.model, quantization=quantization))
    measured = values(trained(config, models_dir, tmp_path), "eval_loss")
    assert measured[-1] < measured[0]
    base = AutoModelForImageTextToText.from_pretrained(models_dir / kind, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(tmp_path / "run" / "adapter")).eval()
    wrapped = [name for name, module in model.named_modules() if getattr(module, "lora_A", None)]
    assert len(wrapped) == 2 * len(LINEARS)
    tolerance = {"none": 1e-5, "nf4": 0.02}[quantization]
    assert held_out_loss(model, config, models_dir / kind, tmp_path) == pytest.approx(measured[-1], rel=tolerance)


def held_out_loss(model: Any, config: RunConfig, folder: Path, paths: Path) -> float:
    """Mean over all held-out tokens that count, example by example."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = prepare(config.data, tokenizer, config.training.max_length, config.training.seed, paths / "data")
    loss = count = 0.0
    for example in data.eval or ():
        ids = torch.tensor(example["input_ids"][: config.training.max_length])[None]
        wanted = torch.tensor(example["counts"][: config.training.max_length])[1:]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1][wanted]
        loss += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:][wanted], reduction="sum"))
        count += int(wanted.sum())
    return loss / count


def test_packed_examples_of_a_wrapper_do_not_see_one_another(models_dir: Path, tmp_path: Path) -> None:
    config = run_config("mistral3", tmp_path)
    plain = trained(replace(config, training=replace(config.training, packing="off")), models_dir, tmp_path)
    tight = trained(replace(config, training=replace(config.training, packing="bfd")), models_dir, tmp_path)
    assert any("packed" in event.get("text", "") for event in tight)
    assert values(plain, "loss") == pytest.approx(values(tight, "loss"), rel=2e-5)


def test_the_model_card_names_the_class_that_loads_it(models_dir: Path, tmp_path: Path) -> None:
    config = run_config("mistral3", tmp_path)
    plan = make_plan(config, discover(load_config(config.model, models_dir), "mistral3"))
    run = RunStore(tmp_path / "runs").create(config, plan)
    assert "from transformers import AutoModelForImageTextToText\n" in model_card(run)
    assert "AutoModelForCausalLM" not in model_card(run)


@pytest.mark.parametrize(("version", "tied"), [("4.52.4", False), ("5.0.0", True), (None, True)])
def test_a_head_is_tied_as_the_checkpoint_has_it(version: str | None, tied: bool, tmp_path: Path) -> None:
    """Before version 5 the text config decided, whose default for Mistral is untied; the wrapper's is tied."""
    value = {**wrappers.CONFIGS["mistral3"], "model_type": "mistral3", "transformers_version": version}
    del value["tie_word_embeddings"]
    text = dict(value["text_config"])
    del text["tie_word_embeddings"]
    (tmp_path / "model").mkdir()
    for stated in (None, False):
        inner = text if stated is None else {**text, "tie_word_embeddings": stated}
        (tmp_path / "model/config.json").write_text(json.dumps({**value, "text_config": inner}))
        module_map = discover(load_config(ModelConfig(name="model"), tmp_path), "model")
        head = module_map.get("lm_head")
        assert head is not None
        assert (head.tied_to == "embed_tokens") == (tied if stated is None else False)


def test_models_that_need_an_image_are_refused_with_the_reason(tmp_path: Path) -> None:
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    with pytest.raises(UserError, match=r"text alone.*pixel_values"):
        discover(BlipConfig(text_config=size, vision_config=size), "blip")
    (tmp_path / "florence").mkdir()
    Florence2Config().save_pretrained(tmp_path / "florence")
    with pytest.raises(UserError, match="encoder-decoder"):
        load_config(ModelConfig(name="florence"), tmp_path)
