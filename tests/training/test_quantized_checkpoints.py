"""Checkpoints that are quantized as published: what they are, what may be ticked, trained and loaded for real."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import bitsandbytes
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.planning.test_memory import held as held_in_memory
from tests.support import quantized
from tests.support.lab import module_map_of, plan_of, small_config
from tests.support.quantized import FBGEMM, FP4, FP8, MXFP4, NF4, W4A16, W8
from trainer.common.devices import CPU, Device
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick
from trainer.export.adapter_zip import model_card
from trainer.models import checkpoint_format
from trainer.models.checkpoint_format import read_format
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import Plan, make_plan
from trainer.runs.store import RunStore
from trainer.training import adapter, loop
from trainer.training.loading import load_model
from trainer.training.quantization import base as quantization_module

GPU = Device("cuda:0", total=80 * 10**9, free=78 * 10**9, bfloat16=True)
INT8 = {"load_in_8bit": True, "llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp"]}
PLAIN = {"nf4": "llama", "fp4": "llama", "int8": "llama", "fp8": "llama", "fbgemm": "llama"}
PLAIN |= {"fp8-moe": "moe", "mxfp4": "gpt_oss"}
COMPRESSED = {"w4a16": "llama", "w8": "llama"} if find_spec("compressed_tensors") else {}
PLAIN |= COMPRESSED
NOISE = {"nf4": 0.35, "fp4": 0.45, "int8": 0.05, "fp8": 0.12, "fbgemm": 0.12, "fp8-moe": 0.2, "mxfp4": 0.4}
NOISE |= {"w4a16": 0.45, "w8": 0.12}
"""Relative error of the logits that a format makes on random weights, as measured, and a tenth more."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with plain models, and each of them in the formats that they are published in."""
    folder = tmp_path_factory.mktemp("quantized")
    for kind in ("llama", "moe", "gpt_oss"):
        quantized.save_plain(folder / kind, kind)
    for name, settings in (("nf4", NF4), ("fp4", FP4), ("int8", INT8)):
        quantized.save_bitsandbytes(folder / name, folder / "llama", settings)
    quantized.save_bitsandbytes(folder / "nf4-moe", folder / "moe", NF4)
    published: tuple[tuple[str, str, Any, Any], ...] = (
        ("fp8", "llama", quantized.fp8, FP8),
        ("fbgemm", "llama", quantized.fp8_rows, FBGEMM),
        ("fp8-moe", "moe", quantized.fp8, FP8),
        ("mxfp4", "gpt_oss", quantized.mxfp4, MXFP4),
        ("w4a16", "llama", quantized.int4, W4A16),
        ("w8", "llama", quantized.fp8_rows, W8),
    )
    for name, kind, pack, settings in published:
        quantized.save_as(folder / name, folder / kind, pack, settings)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def config(data: Path) -> RunConfig:
    """Four steps, large enough to see; without dropout, so that equal models have equal losses."""
    small = small_config(data, data / "rows.jsonl", steps=4)
    ticks = (Tick("q_proj"), Tick("o_proj"), Tick("v_proj", layers="0"))
    return replace(small, modules=ticks, adapter=AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.0))


@pytest.fixture(scope="module")
def train(models: Path, data: Path) -> Callable[[RunConfig], SimpleNamespace]:
    """Trains as a worker does; gives back events, the adapter's folder, and logits of the trained model."""

    @cache
    def run(config: RunConfig) -> SimpleNamespace:
        seen: dict[str, Any] = {}

        def save_and_look(model: Any, *arguments: Any) -> None:
            with model.disable_adapter():
                seen["before"] = logits(model)
            seen["after"] = logits(model)
            save(model, *arguments)

        events: list[dict[str, Any]] = []
        paths = loop.RunPaths(data / f"run-{uuid4()}", models, data)
        paths.folder.mkdir()
        save = loop.save_adapter
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "save_adapter", save_and_look)
            loop.train(config, paths, lambda type, **values: events.append({"type": type, **values}), lambda: False)
        return SimpleNamespace(
            losses=[event["loss"] for event in events if event["type"] == "metrics"],
            evals=[event["eval_loss"] for event in events if event["type"] == "eval"],
            log="\n".join(event["text"] for event in events if event["type"] == "log"),
            adapter=paths.folder / "adapter",
            **seen,
        )

    return run


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 67).view(2, 32)
    model.eval()
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def on(config: RunConfig, name: str, quantization: Any = "none") -> RunConfig:
    return replace(config, model=ModelConfig(name=name, quantization=quantization))


@pytest.mark.parametrize("name", PLAIN)
def test_a_run_trains_on_it_and_its_adapter_loads_on_the_published_checkpoint(
    name: str, config: RunConfig, train: Callable[[RunConfig], SimpleNamespace], models: Path
) -> None:
    plan = plan_of(on(config, name), models)
    done, plain = train(on(config, name)), train(on(config, PLAIN[name]))
    assert done.evals[-1] < done.evals[0] - 0.2
    assert done.losses == pytest.approx(plain.losses, rel=0.05)
    assert 0 < distance(done.before, plain.before) < NOISE[name]
    assert plan.checkpoint["says"] in done.log

    loads = plan.checkpoint["loads"].partition("(")[0]  # as the model card writes it
    keywords = {"quantization_config": getattr(transformers, loads)(dequantize=True)} if loads else {}
    if name == "fbgemm":
        return  # transformers loads it on GPUs only
    base = AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.bfloat16, **keywords)
    moved = distance(done.after, done.before)
    assert (
        distance(logits(PeftModel.from_pretrained(base, str(done.adapter))), done.after) < moved / 5
    )  # noise of bfloat16


@pytest.mark.parametrize(("name", "quantization"), [("fp8", "nf4"), ("fp8-moe", "int8"), ("mxfp4", "nf4")])
def test_what_is_dequantized_is_then_held_as_the_setting_says(
    name: str,
    quantization: str,
    config: RunConfig,
    train: Callable[[RunConfig], SimpleNamespace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weight by weight: no linear's plain weights are there while another one's are."""
    waiting: list[int] = []
    replace_one = quantization_module._replace

    def count(model: Any, name: str, settings: Any) -> None:
        linears = [module for module in model.model.layers.modules() if type(module) is torch.nn.Linear]
        waiting.append(sum(linear.weight.device.type != "meta" for linear in linears))
        replace_one(model, name, settings)

    monkeypatch.setattr(quantization_module, "_replace", count)
    done = train(on(config, name, quantization))
    plain = train(on(config, PLAIN[name], quantization))
    assert waiting and (max(waiting) == 1 or name != "fp8")
    assert done.evals[-1] < done.evals[0] - 0.2
    assert done.losses == pytest.approx(plain.losses, rel=0.05)
    in_full = train(on(config, name))
    assert 0 < distance(done.before, in_full.before) < (0.5 if quantization == "nf4" else 0.2)


def test_a_module_that_trains_in_full_is_dequantized_and_stays_plain(
    config: RunConfig, train: Callable[[RunConfig], SimpleNamespace]
) -> None:
    ticks = (Tick("q_proj"), Tick("down_proj", "full"), Tick("lm_head", "full"))
    done = train(replace(on(config, "fp8", "nf4"), modules=ticks))
    assert done.evals[-1] < done.evals[0] - 0.2
    names = load_file(done.adapter / "adapter_model.safetensors")
    assert names["base_model.model.model.layers.0.mlp.down_proj.weight"].shape == (64, 128)


@pytest.mark.parametrize("name", [*PLAIN, "nf4-moe"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_what_stays_in_memory_is_what_the_plan_says(
    name: str, quantization: Any, config: RunConfig, models: Path
) -> None:
    config = on(config, name, quantization)
    module_map = module_map_of(config.model, models)
    plan = make_plan(config, module_map)
    model = load_model(config.model, models, plan, module_map, lambda *_, **__: None)
    model = adapter.attach(model, plan, config.adapter, module_map)
    adapter.prepare(model, plan, torch.float32)
    adapter.verify(model, plan, config.adapter, module_map)
    measured = held_in_memory(SimpleNamespace(model=model))  # type: ignore[arg-type]
    for item in ("quantized weights", "quantization constants", "other weights", "trained weights"):
        assert plan.memory.get(item, 0) == pytest.approx(measured.get(item, 0), rel=0.01, abs=64), item
    assert module_map.parameters == module_map_of(ModelConfig(name=_plain(name)), models).parameters
    assert (plan.loading > sum(measured.values()) - measured["trained weights"]) == (name not in HELD)


HELD = ("nf4", "fp4", "int8", "nf4-moe")


def _plain(name: str) -> str:
    return PLAIN.get(name, "moe")


def kind_of(module_map: ModuleMap, name: str) -> tuple[tuple[str, ...], str]:
    kind = module_map.get(name)
    assert kind is not None
    return kind.treatments, kind.reason


def test_what_is_held_quantized_cannot_train_in_full_and_says_so(config: RunConfig, models: Path) -> None:
    module_map = module_map_of(ModelConfig(name="nf4"), models)
    treatments, reason = kind_of(module_map, "down_proj")
    assert treatments == ("lora",)
    assert "4-bit NF4 (bitsandbytes)" in reason and "unquantized" in reason
    assert kind_of(module_map, "lm_head") == (("lora", "full"), "")
    some = kind_of(module_map_of(ModelConfig(name="int8"), models), "down_proj")
    assert some[0] == ("lora",) and "in 2 of 3 layers" in some[1], "llm_int8_skip_modules leaves one plain"
    assert kind_of(module_map_of(ModelConfig(name="fp8"), models), "down_proj")[0] == ("lora", "full")
    plan = plan_of(replace(on(config, "nf4"), modules=(Tick("down_proj", "full"),)), models)
    assert any("in full" in issue.fix for issue in plan.issues)


def test_peft_cannot_train_what_is_held_quantized_in_full(models: Path) -> None:
    """The reason that a tick gives: a copy of packed weights takes no gradient."""
    wanted = LoraConfig(target_modules=["q_proj"], modules_to_save=["model.layers.0.mlp.down_proj"])
    model = AutoModelForCausalLM.from_pretrained(models / "nf4")
    with pytest.raises(RuntimeError, match="floating point"):
        get_peft_model(model, wanted)


def test_a_setting_without_effect_is_told_and_changes_nothing(config: RunConfig, models: Path) -> None:
    fits, other = plan_of(on(config, "nf4", "nf4"), models), plan_of(on(config, "nf4", "int8"), models)
    assert fits.issues == other.issues == ()
    (warning,) = set(other.warnings) - set(fits.warnings)
    assert warning.field == "model.quantization" and "no effect" in warning.problem
    assert fits.memory == other.memory and fits.checkpoint == other.checkpoint
    pissa = AdapterConfig(r=4, lora_dropout=0.0, init_lora_weights="pissa")
    refused = plan_of(replace(on(config, "nf4"), adapter=pissa), models)
    assert any("PiSSA cannot decompose" in issue.problem for issue in refused.issues)


@pytest.mark.parametrize(
    ("settings", "title", "handling"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "4-bit FP4 (bitsandbytes)", "as it is"),
        ({"load_in_8bit": True}, "8-bit LLM.int8() (bitsandbytes)", "as it is"),
        ({"quant_method": "mxfp4"}, "MXFP4", "dequantized"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors", "dequantized"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 32}, "8-bit GPTQ", "as it is"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "4-bit AWQ", "as it is"),
        ({"quant_method": "hqq"}, "HQQ", "refused"),
        ({"quant_method": "exl3"}, "the format “exl3”", "refused"),
        ({"bits": 4}, "a format that its", "refused"),
    ],
)
def test_every_format_has_its_name_and_its_way(settings: dict[str, Any], title: str, handling: str) -> None:
    found = read_format(settings)
    assert found is not None
    assert found.title.startswith(title) and found.handling == handling
    assert read_format(None) is read_format({}) is None


@pytest.mark.parametrize(
    ("name", "settings"),
    [("Qwen/Qwen2.5-7B-Instruct-AWQ", {"quant_method": "awq"}), ("TheBloke/Some-7B-GPTQ", {"quant_method": "gptq"})],
)
def test_gptq_and_awq_are_refused_in_the_plan_where_they_cannot_train(
    name: str, settings: dict[str, Any], config: RunConfig, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models / name.rpartition("/")[2]
    folder.mkdir(exist_ok=True)
    plain = json.loads((models / "llama" / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(plain | {"quantization_config": settings}), encoding="utf-8")
    module_map = module_map_of(ModelConfig(name=folder.name), models)

    def planned(device: Device) -> Plan:
        return make_plan(replace(on(config, name), modules=(Tick("q_proj"),)), module_map, device)

    (issue,) = planned(GPU).issues
    assert "gptqmodel" in issue.problem and "pip install" in issue.fix
    unquantized = "Qwen/Qwen2.5-7B-Instruct," if name.startswith("Qwen") else "the unquantized model that it was made"
    assert unquantized in issue.fix
    monkeypatch.setattr(checkpoint_format, "_installed", lambda _: True)
    (issue,) = planned(CPU).issues
    assert "NVIDIA GPU" in issue.problem
    plan = planned(GPU)
    assert plan.issues == () and plan.performance.torch_compile is False
    assert any("measured" in warning.problem for warning in plan.warnings)
    weights = sum(kind.parameters for kind in module_map.kinds if kind.name in LINEARS)
    assert plan.memory["quantized weights"] == weights // 2
    with_dora = replace(config, adapter=replace(config.adapter, use_dora=True), modules=(Tick("q_proj"),))
    assert any("DoRA" in issue.problem for issue in make_plan(with_dora, module_map, GPU).issues)


def test_a_package_that_is_missing_is_named_in_the_plan(
    config: RunConfig, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_format, "_installed", lambda package: not package.startswith("compressed"))
    (issue,) = plan_of(on(config, "w4a16"), models).issues
    assert "compressed-tensors (pack-quantized) checkpoint" in issue.problem
    assert 'pip install "compressed-tensors>=0.15.0"' in issue.fix


LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_experts_that_were_quantized_one_by_one_are_refused_in_the_plan(config: RunConfig, models: Path) -> None:
    """As transformers 4 saved them; transformers 5 holds experts as one parameter, and reads plain ones only."""
    folder = models / "nf4-moe-4"
    folder.mkdir()
    for file in (models / "nf4-moe").glob("*.json"):
        (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    state = load_file(models / "nf4-moe" / "model.safetensors")
    for name in [name for name in state if ".experts." in name]:
        packed, constants = bitsandbytes.functional.quantize_4bit(state[name], quant_type="nf4")
        state[name] = packed
        state |= {f"{name}.{key}": value for key, value in constants.as_dict(packed=True).items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    old = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"transformers_version": "4.51.3"}
    (folder / "config.json").write_text(json.dumps(old), encoding="utf-8")
    (issue,) = plan_of(on(config, folder.name), models).issues
    assert "experts" in issue.problem
    assert plan_of(on(config, "nf4-moe"), models).issues == ()


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_experts_in_gptq_and_awq_are_refused_in_the_plan(
    method: str, config: RunConfig, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No version of transformers 5 reads them, whatever is installed."""
    monkeypatch.setattr(checkpoint_format, "_installed", lambda _: True)
    owner, name = {"gptq": ("Qwen", "Qwen3-235B-A22B-GPTQ-Int4"), "awq": ("TheBloke", "Mixtral-8x7B-AWQ")}[method]
    (models / name).mkdir()
    plain = json.loads((models / "moe" / "config.json").read_text(encoding="utf-8"))
    settings = {"quantization_config": {"quant_method": method, "bits": 4, "group_size": 128}}
    (models / name / "config.json").write_text(json.dumps(plain | settings), encoding="utf-8")
    module_map = module_map_of(ModelConfig(name=name), models)
    (issue,) = make_plan(on(config, f"{owner}/{name}"), module_map, GPU).issues
    assert "experts" in issue.problem and "pip" not in issue.fix
    sibling = "Qwen/Qwen3-235B-A22B," if method == "gptq" else "the unquantized model that it was made from,"
    assert issue.fix == f"Choose {sibling} with quantization nf4."


@pytest.mark.parametrize(
    "settings",
    [
        {**NF4, "llm_int8_skip_modules": ["(.+)+x"]},
        {**NF4, "llm_int8_skip_modules": [7]},
        {**NF4, "llm_int8_skip_modules": "lm_head"},
        {"quant_method": "gptq", "modules_in_block_to_quantize": [["q_proj", 3]]},
    ],
)
def test_a_config_that_cannot_be_read_is_refused_in_the_plan(settings: Any, config: RunConfig, models: Path) -> None:
    folder = models / "damaged"
    folder.mkdir(exist_ok=True)
    plain = json.loads((models / "llama" / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(plain | {"quantization_config": settings}), encoding="utf-8")
    issue = plan_of(on(config, "damaged"), models).issues[0]
    assert issue.field == "model.name" and "damaged" in issue.problem


def test_the_way_there_is_in_the_plan(config: RunConfig, models: Path) -> None:
    """A device on which the run fits, but not the dequantizing of its largest weight."""
    module_map = module_map_of(ModelConfig(name="fp8-moe"), models)
    config = on(config, "fp8-moe", "nf4")
    training = replace(config.training, max_length=8, per_device_train_batch_size=1)
    config = replace(config, training=training, modules=(Tick("v_proj", layers="2"),))
    plan = make_plan(config, module_map)
    tight = make_plan(config, module_map, replace(CPU, total=plan.loading - 1, free=plan.loading - 1))
    assert plan.needed == plan.loading, "the peak is that of loading, else this test shows nothing"
    assert any(warning.problem.startswith("Loading") for warning in tight.warnings)


def test_the_model_card_names_the_checkpoint_that_was_the_base(
    config: RunConfig, models: Path, tmp_path: Path
) -> None:
    store = RunStore(tmp_path / "runs")
    cards = {}
    for name, quantization in (("nf4", "nf4"), ("mxfp4", "nf4"), ("llama", "nf4")):
        own = on(config, name, quantization)
        cards[name] = model_card(store.create(own, plan_of(own, models)))
    assert "in 4-bit NF4 (bitsandbytes)" in cards["nf4"]
    assert "quantization_config=as_trained" in cards["mxfp4"] and "Mxfp4Config(dequantize=True)" in cards["mxfp4"]
    assert "published in MXFP4" in cards["mxfp4"] and "quantized to nf4" in cards["mxfp4"]
    assert "as_trained" not in cards["llama"] and "published in" not in cards["llama"]
