"""Predicted against counted memory at real sizes without a GPU: fake tensors that imitate one.

python benchmarks/memory_at_size.py          prints the tables of docs/memory.md, then the settings chosen for the
                                             study's job on GPUs of four sizes; five minutes, no network
python benchmarks/memory_at_size.py experts  prints only the table of mixtures of experts
Counts weights and activations, forward and backward, of the layers; not the loss, the optimizer, or temporary memory
inside kernels.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, GptOssConfig, MixtralConfig

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.planning.test_memory_at_size import H100, estimate_of, qwen3_30b, run_of  # noqa: E402
from tests.support import fake_gpu  # noqa: E402
from tests.support.meter import phi3_medium  # noqa: E402
from trainer.config.schema import RunConfig, Tick, default_config  # noqa: E402
from trainer.models.discovery.discover import discover  # noqa: E402
from trainer.models.module_map import ModuleMap  # noqa: E402
from trainer.planning import memory  # noqa: E402
from trainer.planning.plan import Plan, make_plan  # noqa: E402
from trainer.planning.scenarios import scenario  # noqa: E402
from trainer.planning.weight_memory import dequantized_experts, experts_to_quantize, modules_to_quantize, weights  # noqa: E402

KINDS = (
    *("phi3-medium", "llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text", "olmo2", "glm4"),
    *("granite", "cohere", "smollm3", "exaone4", "apertus", "helium", "gpt2", "gpt_neox", "gpt_neo", "gptj", "phi"),
    *("codegen", "starcoder2", "stablelm", "opt", "persimmon", "falcon", "olmo"),
)
MIXTURES = {
    "Qwen3-30B-A3B": qwen3_30b(),
    "Mixtral-8x7B": MixtralConfig(),
    "gpt-oss-20b": GptOssConfig(num_hidden_layers=24, num_local_experts=32),
}
COLUMNS: dict[str, dict[str, Any]] = {
    "as the study": {},
    "every layer recomputes": {"every": 1},
    "one in 3 recomputes": {"every": 3},
    "no dropout": {"lora_dropout": 0.0},
    "not quantized": {"quantization": "none"},
    "one row of 2048": {"batch": 1, "length": 2048},
}


def main() -> None:
    if sys.argv[1:] == ["experts"]:
        print_experts()
        return
    print(f"torch {version('torch')}, transformers {version('transformers')}, peft {version('peft')}\n")
    print(f"| model | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for kind in KINDS:
        print(f"| {kind} | {' | '.join(compared(kind, **changes) for changes in COLUMNS.values())} |", flush=True)
    print_experts()
    print_settings()


def print_experts() -> None:
    """Mixtures of experts, with experts in 16 bits and in NF4; LoRA on attention, one row of 2048 tokens."""
    print("\n| model | parameters | experts in 16 bit | experts in NF4 | one layer's | planned | counted |")
    print("|---|---|---|---|---|---|---|")
    for name, config in MIXTURES.items():
        module_map = discover(config, name)
        run = run_of(module_map, batch=1, length=2048, lora_dropout=0.0)
        run = replace(run, modules=tuple(Tick(tick) for tick in ("q_proj", "k_proj", "v_proj", "o_proj")))
        plan = make_plan(run, module_map, H100)
        quantized = modules_to_quantize("nf4", module_map, plan.targets)
        linears = quantized - experts_to_quantize("nf4", module_map)
        columns = [sum(weights("nf4", module_map, plan.targets, names, 2).values()) for names in (linears, quantized)]
        columns.append(dequantized_experts(module_map, quantized, plan.targets) * 2)
        columns += peak(config, run, plan, module_map, every=1)
        sizes = " | ".join(f"{size / 1e9:.1f} GB" for size in columns)
        print(f"| {name} | {module_map.parameters / 1e9:.1f} B | {sizes} |", flush=True)


def print_settings() -> None:
    """The performance settings for scenario 3 of the study on GPUs of four sizes."""
    module_map = discover(phi3_medium(), "phi3-medium")
    run = replace(default_config("phi3-medium"), modules=scenario("3").modules)
    print("\n| free on the GPU | recomputes every n layers | micro-batch × times | planned |\n|---|---|---|---|")
    for size in (141, 80, 40, 24):
        plan = make_plan(run, module_map, replace(H100, total=size * 10**9, free=size * 10**9))
        settings = plan.performance
        micro = f"{settings.per_device_train_batch_size} × {settings.gradient_accumulation_steps}"
        print(f"| {size} GB | {settings.every_n_layers or 'nothing'} | {micro} | {plan.needed / 1e9:.0f} GB |")


def compared(kind: str, every: int = 0, **changes: Any) -> str:
    """Counted bytes at the peak, and the error of the prediction."""
    config = phi3_medium() if kind == "phi3-medium" else CONFIG_MAPPING[kind]()
    module_map = discover(config, kind)
    run = run_of(module_map, **changes)
    plan = make_plan(run, module_map, H100)
    if plan.issues:
        return "too long"
    predicted, counted = peak(config, run, plan, module_map, every)
    return f"{counted / 1e9:.1f} GB {predicted / counted - 1:+.1%}"


def peak(config: Any, run: RunConfig, plan: Plan, module_map: ModuleMap, every: int) -> tuple[int, int]:
    """Peak bytes of weights and activations: predicted, counted."""
    batch, length = run.training.per_device_train_batch_size, run.training.max_length
    needs = estimate_of(run, module_map, plan, every)
    real = fake_gpu.measure(config, run, plan, module_map, batch > 1, every)
    static = sum(size for name, size in needs.static.items() if "optimizer" not in name and "CUDA" not in name)
    forward, *others = needs.moments(batch, length)
    highest = max(forward["activations"], *(sum(moment.values()) - memory.CUBLAS for moment in others))
    return static + int(highest), real.static + max(real.kept, real.backward, needs.experts and real.forward)


if __name__ == "__main__":
    main()
