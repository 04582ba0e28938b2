"""What the plan says a run needs, held against real tensors: loaded, attached, trained on a CPU."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch

from tests.support import meter
from tests.support.tiny_configs import tiny_config
from trainer.cli import plan_text
from trainer.common import devices, formatting
from trainer.common.devices import Device
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick, TrainingConfig, default_config
from trainer.models.discovery.discover import discover
from trainer.planning.memory.activations import ActivationSetup, activations_by_layer
from trainer.planning.memory.estimate import estimate
from trainer.planning.memory.weights import modules_to_quantize
from trainer.planning.optimizer_choice import optimizer_state
from trainer.planning.parameter_counts import tensor_sizes, whole_module
from trainer.planning.plan import Plan, make_plan
from trainer.planning.scenarios import SIX
from trainer.planning.schedule import batch_size
from trainer.training.quantization.experts import quantized_experts
from ui.panels.summary import State, summary

ALL = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
GPU = Device("cuda:0", total=80 * 10**9, free=78 * 10**9, bfloat16=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with models of a few hundred thousand parameters."""
    path = tmp_path_factory.mktemp("memory")
    for kind in ("phi3", "llama", "gpt2", "mixtral"):
        meter.save_model(path / kind, kind)
    return path


def run_config(
    kind: str, ticks: str, quantization: Any = "none", dtype: Any = "float32", dropout: float = 0.0, **training: Any
) -> RunConfig:
    """`ticks`: names with spaces between them; a `*` before one trains it in full."""
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_length": 64,
        "max_steps": 2,
    }
    settings |= {"optim": "adamw_torch", "activation_checkpointing": "off", "packing": "off"}
    return RunConfig(
        model=ModelConfig(name=kind, quantization=quantization, dtype=dtype),
        modules=tuple(Tick(name.lstrip("*"), "full" if name[0] == "*" else "lora") for name in ticks.split()),
        adapter=AdapterConfig(r=8, lora_dropout=dropout),
        training=TrainingConfig(**settings | training),
    )


@pytest.mark.parametrize(
    ("kind", "ticks", "quantization", "dtype"),
    [
        ("phi3", f"{ALL} *lm_head", "nf4", "bfloat16"),
        ("phi3", "o_proj *down_proj", "int8", "bfloat16"),
        ("phi3", "o_proj *down_proj", "fp8", "bfloat16"),
        ("phi3", "*lm_head *embed_tokens", "none", "float32"),
        ("llama", "q_proj *embed_tokens *lm_head", "nf4", "float32"),
        ("gpt2", "c_attn", "nf4", "float32"),
        ("mixtral", "q_proj gate_up_proj", "nf4", "float32"),
    ],
)  # fmt: skip
def test_what_stays_in_memory_is_what_the_plan_says(
    kind: str, ticks: str, quantization: str, dtype: str, folder: Path
) -> None:
    real = meter.Real(run_config(kind, ticks, quantization, dtype), folder)
    measured, memory = held(real), real.plan.memory
    for item, size in measured.items():
        assert memory.get(item, 0) == pytest.approx(size, rel=0.01, abs=64), item
    real.trainer.train()
    state = real.trainer.optimizer.state.values()
    moments = meter.storages(value for part in state for value in part.values() if value.numel() > 1)
    assert memory["optimizer"] == pytest.approx(sum(moments.values()), rel=0.01)


def held(real: meter.Real) -> dict[str, int]:
    """Bytes by item, by looking at every tensor of the model once."""
    found: dict[str, dict[int, int]] = {}

    def put(item: str, *tensors: torch.Tensor) -> None:
        found.setdefault(item, {}).update(meter.storages(tensors))

    for name, parameter in real.model.named_parameters(remove_duplicate=False):
        if isinstance(parameter, bitsandbytes.nn.Params4bit):
            state = parameter.quant_state
            put("quantized weights", parameter.data)
            put("quantization constants", state.absmax, state.code)
            if state.nested:
                put("quantization constants", state.offset, state.state2.absmax, state.state2.code)
        elif parameter.dtype == torch.uint8:
            put("quantized weights", parameter.data)
            put("quantization constants", real.model.get_submodule(name.rpartition(".")[0]).scale)
        elif parameter.dtype == torch.int8:
            put("quantized weights", parameter.data)
            module = real.model.get_submodule(name.rpartition(".")[0])
            put("quantization constants", module.state.SCB if parameter.SCB is None else parameter.SCB)
        elif parameter.requires_grad:
            put("trained weights", parameter.data)
        else:
            put("frozen copies" if ".original_module." in name else "other weights", parameter.data)
        if hasattr(parameter, "slice_mask"):
            put("slice masks", parameter.slice_mask)
    for _, _, weight in quantized_experts(real.model).values():
        put("quantized weights", *weight.tensors()["packed"])
        put("quantization constants", *weight.tensors()["constants"])
    shared = found.get("frozen copies", {}).keys()  # a tied weight is listed where it is not copied, too
    return {
        item: sum(size for key, size in parts.items() if item == "frozen copies" or key not in shared)
        for item, parts in found.items()
    }


def test_paged_8_bit_adamw_holds_what_bitsandbytes_makes() -> None:
    sizes = [100, 4095, 4096, 5000, 99_999, 100_000, 300_001]
    weights = [torch.nn.Parameter(torch.randn(size)) for size in sizes]
    optimizer = bitsandbytes.optim.AdamW8bit(weights)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    states = [value for state in optimizer.state.values() for key, value in state.items() if "qmap" not in key]
    real = sum(meter.storages(value for value in states if isinstance(value, torch.Tensor)).values())
    said = optimizer_state(sizes, eight_bit=True)
    assert sum(said.values()) == pytest.approx(real, rel=0.001)
    assert said["optimizer, paged"] == 2 * (100_000 + 300_001), "bitsandbytes pages tensors from 100,000 numbers on"


@pytest.mark.parametrize(
    ("run", "padded"),
    [
        (run_config("phi3", "o_proj"), False),
        (run_config("phi3", ALL, "nf4", "bfloat16", dropout=0.05, max_length=128), True),
        (run_config("phi3", "*lm_head *embed_tokens *o_proj", "none", "bfloat16"), True),
        (run_config("llama", ALL, "none", "bfloat16", per_device_train_batch_size=4), True),
        (run_config("llama", "q_proj down_proj", "fp8", "bfloat16"), True),
        (run_config("llama", "down_proj", per_device_train_batch_size=1, max_length=256), False),
        (run_config("gpt2", "c_attn c_fc", "nf4"), True),
        (run_config("mixtral", "q_proj v_proj", "nf4", "bfloat16"), True),
        (run_config("mixtral", "gate_up_proj down_proj", "nf4", "bfloat16"), True),
        (run_config("mixtral", "q_proj gate_up_proj down_proj"), True),
    ],
    ids=lambda value: f"{value.model.name}-{len(value.modules)}" if isinstance(value, RunConfig) else "",
)
def test_layers_keep_what_autograd_saves(run: RunConfig, padded: bool, folder: Path) -> None:
    real = meter.Real(run, folder, padded)
    targets = [whole_module(target, real.module_map) for target in real.plan.targets]
    quantized = modules_to_quantize(run.model.quantization, real.module_map, real.plan.targets)
    setup = replace(ActivationSetup.of(run, 2 if run.model.dtype == "bfloat16" else 4, on_gpu=False), masked=padded)
    said = sum(
        kept.bytes(run.training.per_device_train_batch_size, run.training.max_length)
        for kept in activations_by_layer(real.module_map, targets, quantized, setup)
    )
    assert said == pytest.approx(real.saved(), rel=0.05)


@pytest.mark.parametrize(
    "run",
    [
        run_config("phi3", ALL, gradient_accumulation_steps=2, activation_checkpointing="on"),
        run_config("llama", f"{ALL}", "nf4", "bfloat16", dropout=0.05, per_device_train_batch_size=4),
        run_config("phi3", "o_proj *lm_head *embed_tokens", gradient_accumulation_steps=2),
        run_config("phi3", "lm_head", per_device_train_batch_size=4, max_length=256),
        run_config("mixtral", "q_proj", "nf4", "bfloat16"),
        run_config("mixtral", "q_proj gate_up_proj down_proj", "nf4", activation_checkpointing="on"),
        run_config("llama", ALL, "fp8", "bfloat16", per_device_train_batch_size=4),
    ],
    ids=lambda run: f"{run.model.name}-{len(run.modules)}",
)
def test_the_peak_of_a_training_is_near_the_plan(
    run: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor that lives at once over two real steps. TRL's tiles are made small, or they would be all of it."""
    monkeypatch.setattr("trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE", 64)
    monkeypatch.setattr("trainer.planning.memory.peak.TILE_WIDTH", 64)
    real = meter.Real(run, folder)
    moving = ("gradients", "activations", "logits", "workspace", "optimizer")
    said = sum(real.plan.memory.get(item, 0) for item in moving)
    assert said == pytest.approx(real.peak(), rel=0.15)


@pytest.mark.parametrize(
    "run",
    [
        run_config("phi3", ALL),
        run_config("phi3", "lm_head", per_device_train_batch_size=4, max_length=256),
        run_config("llama", ALL, "nf4", "bfloat16", dropout=0.05, per_device_train_batch_size=4),
        run_config("gpt2", "c_attn", "nf4"),
        run_config("mixtral", "q_proj", "nf4", "bfloat16"),
        run_config("mixtral", "q_proj gate_up_proj down_proj", "nf4"),
    ],
    ids=lambda run: f"{run.model.name}-{len(run.modules)}",
)
def test_the_peak_of_an_evaluation_is_near_the_plan(
    run: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted as above. Training on the same rows needs more, so evaluating them fits."""
    monkeypatch.setattr("trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE", 64)
    monkeypatch.setattr("trainer.planning.memory.peak.TILE_WIDTH", 64)
    real, training = meter.Real(run, folder), run.training
    planned = estimate(run, real.module_map, real.plan.targets)
    moment = planned.evaluation(training.per_device_train_batch_size, training.max_length)
    assert sum(moment.values()) == pytest.approx(real.evaluation_peak(), rel=0.15)
    assert sum(moment.values()) < sum(real.plan.memory.values())


def study(**training: Any) -> RunConfig:
    config = replace(default_config("phi3-medium"), modules=SIX[2].modules)
    return replace(config, training=replace(config.training, **{"micro_batches": "off", **training}))


def study_plan(device: Device, **training: Any) -> Plan:
    return make_plan(study(**training), discover(meter.phi3_medium(), "phi3-medium"), device)


def test_the_study_fits_its_gpu_and_says_how_much_more_would() -> None:
    plan = study_plan(GPU, activation_checkpointing="on")
    assert 12e9 < plan.needed < 20e9
    assert plan.memory["quantized weights"] == (13_960_238_080 - 2 * 32064 * 5120 - 81 * 5120) // 2
    assert not plan.warnings or "Phi" in str(plan.warnings)
    batch, length = plan.fits["per_device_train_batch_size"], plan.fits["max_length"]
    assert study_plan(GPU, per_device_train_batch_size=batch).needed <= 78e9 * 0.95
    assert study_plan(GPU, per_device_train_batch_size=batch + 1).needed > 78e9 * 0.95
    assert study_plan(GPU, per_device_train_batch_size=1, max_length=length).needed <= 78e9 * 0.95


def test_a_run_too_large_is_warned_of_with_changes_that_each_make_it_fit() -> None:
    small = replace(GPU, total=24 * 10**9, free=23 * 10**9)
    plan = study_plan(small, activation_checkpointing="off")
    assert not plan.issues
    (warning,) = [issue for issue in plan.warnings if "free" in issue.problem]
    assert [set(cure.changes) for cure in warning.cures] == [
        {"training.activation_checkpointing"},
        {"training.micro_batches"},
        {"training.per_device_train_batch_size", "training.gradient_accumulation_steps"},
    ]
    assert warning.changes == warning.cures[0].changes
    for cure in warning.cures:
        changes: dict[str, Any] = {path.removeprefix("training."): value for path, value in cure.changes.items()}
        cured = study_plan(small, **{"activation_checkpointing": "off", **changes})
        assert cured.warnings == () and f"needs {formatting.size(cured.needed)}" == cure.result
        if batch := changes.get("per_device_train_batch_size"):
            assert batch * changes["gradient_accumulation_steps"] == batch_size(study().training)
    smaller = study_plan(replace(small, free=16 * 10**9), activation_checkpointing="off")
    assert all(len(cure.changes) > 1 for cure in smaller.warnings[0].cures), "no single change is enough"
    busy = study_plan(replace(small, free=10**9, busy=True))
    assert busy.warnings == (), "the run waits until the other one is over"
    unknown = study_plan(Device("cuda:0", bfloat16=True), per_device_train_batch_size=4096)
    assert ([issue.field for issue in unknown.warnings], unknown.fits) == (["device"], {}), "it cannot be known yet"


def test_where_nothing_fits_one_sentence_names_the_least_memory_found(capsys: pytest.CaptureFixture[str]) -> None:
    def fix(ticks: str, kind: str = "phi3") -> str:
        config = run_config(kind, ticks, "nf4", "bfloat16", activation_checkpointing="on")
        plan = make_plan(config, discover(meter.config(kind), kind), replace(devices.CPU, total=10**5, free=10**5))
        assert set(plan.fits.values()) == {0}
        (warning,) = [issue for issue in plan.warnings if issue.problem.startswith("This needs")]
        assert (warning.changes, warning.cures) == ({}, ())
        plan_text._print_memory(plan)
        assert capsys.readouterr().out.endswith("nothing fits\n")
        assert "Nothing fits." in summary(State(plan))
        return warning.fix

    assert re.search(r"least found is [\d.]+ \wB, with .*batch_size 1.*smaller model\.", fix("o_proj"))
    assert "fewer modules" in fix("*down_proj")


def test_below_the_first_trained_layer_nothing_is_kept() -> None:
    def kept(**changes: Any) -> int:
        tick = Tick("down_proj", layers=changes.pop("layers", ""))
        return study_plan_of(replace(study(activation_checkpointing="off", **changes), modules=(tick,)))

    everywhere, last = kept(), kept(layers="last 8")
    assert last == pytest.approx(everywhere / 5, rel=0.1)


def study_plan_of(config: RunConfig) -> int:
    module_map = discover(meter.phi3_medium(), "phi3-medium")
    costs = estimate(config, module_map, make_plan(config, module_map).targets, GPU)
    return int(sum(layer.bytes(8, 512) for layer in costs.masked))


def test_a_weight_that_layers_share_counts_once() -> None:
    config = RunConfig(model=ModelConfig(name="zamba", quantization="nf4"), modules=(Tick("lm_head", "full"),))
    module_map = discover(tiny_config("zamba"), "zamba")
    memory = make_plan(config, module_map).memory
    assert min(memory.values()) >= 0
    plain = make_plan(replace(config, model=ModelConfig(name="zamba", quantization="none")), module_map).memory
    assert memory["quantized weights"] * 8 + memory["other weights"] == pytest.approx(
        plain["other weights"], rel=1e-3
    )


def test_tensor_sizes_add_up_to_the_adapter() -> None:
    plan = make_plan(run_config("phi3", f"{ALL} *lm_head"), discover(meter.config("phi3"), "phi3"))
    module_map = discover(meter.config("phi3"), "phi3")
    sizes = [n for target in plan.targets for n in tensor_sizes(target, AdapterConfig(r=8), module_map)]
    assert sum(sizes) == plan.stored


def test_a_cpu_has_the_machine_s_memory() -> None:
    device = devices.device()
    assert device.name == "cpu"
    assert 0 < device.free <= device.total
