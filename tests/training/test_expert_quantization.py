"""Experts in NF4, held against the same model without quantization: losses, gradients, memory, adapters, merging."""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import bitsandbytes as bnb
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, Gemma4TextConfig, PreTrainedConfig

from tests.planning.test_memory_at_size import qwen3_30b
from tests.support import meter
from tests.support.exercise import TRAINING, batch, logits
from tests.support.lab import small_config
from tests.support.tiny_configs import shrink, tiny_config
from trainer.common.errors import UserError
from trainer.common.formatting import size
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick
from trainer.models.discovery.discover import discover
from trainer.models.discovery.probing import extra_inputs
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import Plan, make_plan
from trainer.training import adapter, loop
from trainer.training.loading import load_model
from trainer.training.optimizer import parameter_groups
from trainer.training.quantization import experts as expert_quantization
from trainer.training.quantization.experts import dequantize_experts, quantize_experts, quantized_experts

FAMILIES = (
    *("qwen2_moe", "qwen3_next", "mixtral", "deepseek_v3", "glm4_moe", "granitemoe", "lfm2_moe"),
    "gpt_oss",  # transposed, interleaved, with biases
    "llama4_text",  # transposed, every expert computes every token
    "gemma4_text",  # experts lie in the layer itself, beside an MLP
    "nemotron_h",  # no gate
    "jetmoe",  # experts in attention, too, called by a method of their parent
    "dbrx",  # experts end to end in a matrix, read by the module around
    "longcat_flash",  # experts without weights, a router whose weight is read
)
LORA = AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.0)


@dataclass
class Loaded:
    """A tiny model from a real checkpoint: in NF4, as it is, and with the values that NF4 has."""

    config: PreTrainedConfig
    module_map: ModuleMap
    run: RunConfig
    plan: Plan
    quantized: Any
    plain: Any

    @property
    def dequantized(self) -> Any:
        """The unquantized model, with the weights that the quantized one computes with."""
        model = copy.deepcopy(self.plain)
        for name, (_, _, weight) in quantized_experts(self.quantized).items():
            model.get_parameter(name).data = weight.dequantize()
        for name, module in self.quantized.named_modules():
            if isinstance(module, bnb.nn.Linear4bit):
                state = module.weight.quant_state
                model.get_submodule(name).weight.data = bnb.functional.dequantize_4bit(module.weight.data, state)
        return model


def load(model_type: str, folder: Path, quantization: Any = "nf4") -> Loaded:
    config = tiny_config(model_type)
    if model_type == "gemma4_text":
        config = shrink(
            Gemma4TextConfig(enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=48)
        )
    if not (folder / model_type).exists():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter) * 0.02
        model.save_pretrained(folder / model_type)
    module_map = discover(config, model_type)
    # and the linears that PEFT takes for experts: they stay unquantized
    special = [kind for kind in module_map.kinds if kind.experts or kind.by_weight]
    names = [kind.name for kind in special if "lora" in kind.treatments]
    linear = next(k for k in module_map.kinds if k.class_name == "Linear" and k.treatments == ("lora", "full"))
    run = RunConfig(
        model=ModelConfig(name=model_type, quantization=quantization, dtype="float32"),
        modules=tuple(Tick(name) for name in [*names, linear.name]),
        adapter=LORA,
        training=TRAINING,
    )
    plan = make_plan(run, module_map)
    assert not plan.issues, plan.issues
    models = [
        load_model(replace(run.model, quantization=way), folder, plan, module_map, lambda *_, **__: None)
        for way in (quantization, "none")
    ]
    return Loaded(config, module_map, run, plan, *models)


def loss(model: Any, config: PreTrainedConfig) -> torch.Tensor:
    ids = batch(config)
    return model(input_ids=ids, labels=ids, use_cache=False, **extra_inputs(config)).loss


def attached(model: Any, found: Loaded) -> PeftModel:
    wrapped = adapter.attach(model, found.plan, LORA, found.module_map)
    adapter.prepare(wrapped, found.plan, torch.float32)
    adapter.verify(wrapped, found.plan, LORA, found.module_map)
    return wrapped


def train(model: PeftModel, found: Loaded, steps: int = 2) -> set[str]:
    """Real steps; names of all parameters that did not move although they should."""
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameter_groups(model, found.run))
    model.train()
    for _ in range(steps):
        loss(model, found.config).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return {name for name, value in before.items() if torch.equal(model.get_parameter(name), value)}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_experts_of_every_layout_are_quantized_trained_saved_and_merged(model_type: str, tmp_path: Path) -> None:
    found = load(model_type, tmp_path)
    base, plain, memory = found.quantized, found.plain, found.plan.memory
    experts = {name for kind in found.module_map.kinds if kind.experts for name in kind.modules}
    assert experts
    assert quantized_experts(base).keys() == experts
    assert all(base.get_parameter(name).untyped_storage().nbytes() == 4 for name in experts)
    assert held(base) == (memory["quantized weights"], memory["quantization constants"])
    torch.manual_seed(0)
    quantized_loss = float(loss(base.train(), found.config))
    torch.manual_seed(0)
    assert quantized_loss == pytest.approx(float(loss(plain.train(), found.config)), abs=0.03)

    dequantized = found.dequantized.eval()
    again = load_model(found.run.model, tmp_path, found.plan, found.module_map, lambda *_, **__: None)
    model = attached(base, found)
    assert train(model, found) == set()
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    trained = logits(model, found.config)
    on_plain = PeftModel.from_pretrained(dequantized, str(tmp_path / "adapter")).eval()
    on_quantized = PeftModel.from_pretrained(again, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(logits(on_plain, found.config), trained, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits(on_quantized, found.config), trained, rtol=0, atol=1e-6)
    merged = on_plain.merge_and_unload()
    torch.testing.assert_close(logits(merged, found.config), trained, rtol=0, atol=1e-5)


def held(model: Any) -> tuple[int, int]:
    """Bytes of packed weights and of their constants, by looking at every tensor."""
    packed, constants = [], []
    for _, _, weight in quantized_experts(model).values():
        packed += weight.tensors()["packed"]
        constants += weight.tensors()["constants"]
    for parameter in model.parameters():
        if isinstance(parameter, bnb.nn.Params4bit):
            state = parameter.quant_state
            packed.append(parameter.data)
            constants += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return sum(meter.storages(packed).values()), sum(meter.storages(constants).values())


@pytest.mark.parametrize("way", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_dequantized_weights(way: str, checkpointing: bool, tmp_path: Path) -> None:
    """Three passes each, since what one pass leaves behind would show in the next."""
    found = load("qwen3_moe", tmp_path)
    models = [attached(model, found) for model in (found.quantized, found.dequantized)]
    torch.manual_seed(0)
    start = {n: torch.randn_like(p) * 0.05 for n, p in models[0].named_parameters() if p.requires_grad}
    for model in models:
        model.load_state_dict(start, strict=False)
        model.get_base_model().set_experts_implementation(way)
        model.get_input_embeddings().weight.requires_grad_()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        for _ in range(3):
            loss(model, found.config).backward()
    for name, parameter in models[1].named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            torch.testing.assert_close(models[0].get_parameter(name).grad, parameter.grad, rtol=1e-5, atol=1e-8)
    read = [weight.stand_in for _, _, weight in quantized_experts(models[0]).values()]
    assert all(bool(stand_in.isnan().all()) for stand_in in read), "dequantized weights are gone after the pass"


@pytest.mark.parametrize("experts", [False, True])
def test_the_backward_pass_keeps_no_dequantized_weights(experts: bool, tmp_path: Path) -> None:
    """With LoRA on the experts or below them, their weights are needed in the backward pass, and made again there."""
    found = load("mixtral", tmp_path)
    run = found.run if experts else replace(found.run, modules=(Tick("q_proj"),))
    found = replace(found, run=run, plan=make_plan(run, found.module_map))
    one_layer = sum(kind.parameters // len(kind.modules) for kind in found.module_map.kinds if kind.experts) * 4
    kept = []
    for base in (found.quantized, found.dequantized):
        model = attached(base, found).train()
        weights = [t for _, _, w in quantized_experts(model).values() for part in w.tensors().values() for t in part]
        counted = meter.Meter([*model.parameters(), *model.buffers(), *weights])
        with counted:
            result = loss(model, found.config)
            kept.append(counted.live)
            counted.peak = 0
            result.backward()
        if base is found.quantized:
            copies = 1 + experts
            assert counted.peak - kept[0] < (copies + 0.7) * one_layer, "one layer's experts at a time"
    merged = 2 * one_layer * experts  # of both layers, which PEFT keeps where nothing is quantized
    assert kept[0] == pytest.approx(kept[1] - merged, abs=one_layer / 8)


def test_one_unquantized_parameter_at_a_time_while_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a checkpoint that holds each expert by itself, as Qwen3-30B-A3B's does."""
    seen: list[weakref.ref[torch.UntypedStorage]] = []
    most = 0
    quantize = expert_quantization.ExpertWeight.quantize

    def watched(weight: torch.Tensor) -> Any:
        nonlocal most
        seen.append(weakref.ref(weight.untyped_storage()))
        most = max(most, sum(storage() is not None for storage in seen))
        return quantize(weight)

    monkeypatch.setattr(expert_quantization.ExpertWeight, "quantize", watched)
    found = load("qwen3_moe", tmp_path)
    assert len(seen) == len(quantized_experts(found.quantized)) == 4
    assert most == 1


def test_experts_of_a_loaded_model_are_quantized_and_turned_back(tmp_path: Path) -> None:
    found = load("gpt_oss", tmp_path)
    model, names = found.plain, list(quantized_experts(found.quantized))
    quantize_experts(model, names, "cpu")
    quantize_experts(model, names)  # what is quantized already stays as it is
    expected = logits(model.eval(), found.config)
    model = attached(model, found)
    train(model, found)
    trained = logits(model, found.config)
    dequantize_experts(model)
    assert quantized_experts(model) == {}
    torch.testing.assert_close(logits(model, found.config), trained, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits(model.merge_and_unload(), found.config), trained, rtol=0, atol=1e-5)
    assert float((trained - expected).abs().max()) > 1e-4


@pytest.mark.parametrize("shape", [(4, 96, 32), (192, 32)], ids=str)
def test_experts_are_packed_as_bitsandbytes_packs_the_whole(shape: tuple[int, ...]) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    weight = expert_quantization.ExpertWeight.quantize(value)
    packed, state = bnb.functional.quantize_4bit(value, compress_statistics=True, quant_type="nf4")
    assert torch.equal(weight.packed, packed)
    assert torch.equal(weight.dequantize(), bnb.functional.dequantize_4bit(packed, state))


@pytest.mark.parametrize(("safe", "said"), [(False, "single memory location"), (True, "NaNs detected")])
def test_merging_into_quantized_experts_is_refused(safe: bool, said: str, tmp_path: Path) -> None:
    """PEFT's own errors: it would add to a stand-in, and the training would be lost."""
    found = load("mixtral", tmp_path)
    with pytest.raises((RuntimeError, ValueError), match=said):
        attached(found.quantized, found).merge_and_unload(safe_merge=safe)


def test_what_int8_leaves_is_named_with_its_bytes(tmp_path: Path) -> None:
    found = load("mixtral", tmp_path, "int8")
    assert quantized_experts(found.quantized) == {}
    kinds = [kind for kind in found.module_map.kinds if kind.experts]
    (warning,) = [issue for issue in found.plan.warnings if issue.field == "model.quantization"]
    for kind in kinds:
        bytes_held = sum(found.quantized.get_parameter(name).nbytes for name in kind.modules)
        assert f"{kind.name} ({size(bytes_held)})" in warning.problem
    assert "nf4" in warning.fix
    none = make_plan(replace(found.run, model=replace(found.run.model, quantization="nf4")), found.module_map)
    assert [issue for issue in none.warnings if issue.field == "model.quantization"] == []


def test_a_published_mixture_is_planned_as_others_hold_it() -> None:
    """Qwen3-30B-A3B: 30.5 B parameters, 60 GB before its experts were quantized."""
    config = qwen3_30b()
    module_map = discover(config, "Qwen3-30B-A3B")
    assert module_map.parameters == 30_532_122_624
    run = RunConfig(model=ModelConfig(quantization="nf4", dtype="bfloat16"), modules=(Tick("q_proj"),), adapter=LORA)
    memory = make_plan(run, module_map).memory
    weights = sum(memory[item] for item in ("quantized weights", "quantization constants", "other weights"))
    assert 16e9 < weights < 17.5e9


def test_a_whole_run_in_nf4_loses_no_more_than_its_noise(models_dir: Path, tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {}
    evals: dict[str, list[float]] = {}
    ticks = (Tick("experts.gate_up_proj"), Tick("experts.down_proj"), Tick("q_proj"))
    ways: tuple[Literal["nf4", "none"], ...] = ("nf4", "none")
    for way in ways:
        run = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=6)
        run = replace(run, model=ModelConfig(name="moe", quantization=way), modules=ticks, adapter=LORA)
        paths = loop.RunPaths(tmp_path / way, models_dir, tmp_path / "data")
        paths.folder.mkdir()
        events: list[dict[str, Any]] = []
        loop.train(run, paths, lambda type, events=events, **v: events.append({"type": type, **v}), lambda: False)
        losses[way] = [event["loss"] for event in events if event["type"] == "metrics"]
        evals[way] = [event["eval_loss"] for event in events if event["type"] == "eval"]
    assert len(losses["nf4"]) == 6
    assert evals["nf4"][-1] < evals["nf4"][0]
    assert losses["nf4"] + evals["nf4"] == pytest.approx(losses["none"] + evals["none"], abs=0.01)


def test_lora_on_experts_with_dropout_is_refused_with_what_to_do() -> None:
    module_map = discover(tiny_config("mixtral"), "mixtral")
    run = RunConfig(modules=(Tick("gate_up_proj"),), adapter=AdapterConfig(lora_dropout=0.05), training=TRAINING)
    (issue,) = make_plan(run, module_map).issues
    assert isinstance(issue.fix, str) and "lora_dropout" in issue.fix
    with pytest.raises(UserError, match="PEFT rejects"):
        config = replace(run, adapter=LORA)
        model = AutoModelForCausalLM.from_config(tiny_config("mixtral"))
        adapter.attach(model, make_plan(config, module_map), AdapterConfig(lora_dropout=0.05), module_map)
