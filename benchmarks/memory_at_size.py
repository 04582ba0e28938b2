"""Predicted against counted memory at real sizes without a GPU: fake tensors that imitate one.

python benchmarks/memory_at_size.py          prints the tables of docs/memory.md, then the settings chosen for the
                                             study's job on GPUs of four sizes; five minutes, no network
python benchmarks/memory_at_size.py experts  prints only the table of mixtures of experts
python benchmarks/memory_at_size.py long     prints only the tables of the longest rows, with the loss
Counts weights and activations, forward and backward, of the layers; not the optimizer, or temporary memory inside
kernels; the loss only for the longest rows.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CONFIG_MAPPING, GptOssConfig, LlamaConfig, MixtralConfig
from trl.kernels import ChunkedLogProbFunction, chunked_logprob

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.planning.test_memory_at_size import H100, estimate_of, qwen3_30b, run_of  # noqa: E402
from tests.support import fake_gpu  # noqa: E402
from tests.support.meter import Meter, phi3_medium  # noqa: E402
from trainer.config.schema import RunConfig, Tick, default_config  # noqa: E402
from trainer.models.discovery.discover import discover  # noqa: E402
from trainer.models.module_map import ModuleMap  # noqa: E402
from trainer.planning.memory.estimate import estimate  # noqa: E402
from trainer.planning.memory.peak import CUBLAS, TILE_WIDTH  # noqa: E402
from trainer.planning.memory.weights import dequantized_experts, experts_to_quantize, modules_to_quantize, weights  # noqa: E402
from trainer.planning.plan import Plan, make_plan  # noqa: E402
from trainer.planning.scenarios import scenario  # noqa: E402

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
LLAMA_8B = LlamaConfig(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
    max_position_embeddings=131072,
)
GPU_80 = 80 * 2**30
"""Bytes of an 80 GB card."""
PUBLISHED = 28454
"""Longest row of Llama-3.1-8B with LoRA of rank 32 on 80 GB, for Hugging Face with FlashAttention 2, by Unsloth."""
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
    if sys.argv[1:] == ["long"]:
        print_long("Llama-3.1-8B", LLAMA_8B, "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj")
        print_long("Qwen3-30B-A3B", qwen3_30b(), "q_proj k_proj v_proj o_proj")
        print_whole_logits()
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


def long_run(config: Any, name: str, ticks: str) -> tuple[RunConfig, ModuleMap, Plan]:
    """NF4, LoRA of rank 32 without dropout, one row of the length that the plan says fits into 80 GB."""
    config.max_position_embeddings = 2**20
    module_map = discover(config, name)
    device = replace(H100, total=GPU_80, free=GPU_80)
    run = run_of(module_map, batch=1, lora_dropout=0.0)
    run = replace(
        run, modules=tuple(Tick(tick) for tick in ticks.split()), adapter=replace(run.adapter, r=32, lora_alpha=32)
    )
    run = replace(run, training=replace(run.training, activation_checkpointing="on", packing="off"))
    length = make_plan(run, module_map, device).fits["max_length"]
    run = replace(run, training=replace(run.training, max_length=length))
    return run, module_map, make_plan(run, module_map, device)


def print_long(name: str, config: Any, ticks: str) -> None:
    """Every item of the longest row that fits, planned and counted."""
    run, module_map, plan = long_run(config, name, ticks)
    length, hidden, layers = run.training.max_length, module_map.hidden_size, module_map.layers
    needs = estimate(run, module_map, plan.targets, plan.device, recompute=True)
    real = fake_gpu.measure(config, run, plan, module_map, masked=False, every_n_layers=1)
    forward, backward, *_ = needs.moments(1, length)
    inputs = layers * length * hidden * 2
    static = sum(needs.static[item] for item in needs.static if "optimizer" not in item and "CUDA" not in item)
    rows: list[tuple[str, float, float | None]] = [
        ("weights, adapter", static, real.static),
        ("optimizer, context, cuBLAS", sum(needs.static.values()) - static + CUBLAS, None),
        (f"inputs of {layers} layers", inputs, layers * length * hidden * 2),
        ("end of the forward pass: inputs, last norm", forward["activations"], real.kept),
        ("loss", forward["logits"], loss_peak(length, hidden, module_map.vocab_size)),
        (
            "backward pass of the last layer",
            backward["activations"] + backward["workspace"] - inputs - CUBLAS,
            real.backward - inputs,
        ),
        (
            "total at the peak",
            plan.needed,
            real.static + real.backward + plan.needed - static - sum(backward.values()),
        ),
    ]
    print(f"\n{name}, one row of {length:,} tokens\n\n| item | planned | counted |\n|---|---|---|")
    for item, planned, counted in rows:
        shown = "" if counted is None else f"{counted / 1e9:.2f} GB"
        print(f"| {item} | {planned / 1e9:.2f} GB | {shown} |", flush=True)


def loss_peak(tokens: int, hidden: int, vocabulary: int) -> int:
    """Peak bytes of TRL's fused loss, forward and backward, without its input. Its kernels allocate nothing."""
    nothing = mock.Mock(return_value=None)
    kernels: dict[str, Any] = dict.fromkeys(("_forward_tile", "_backward_tile", "_addmm_fp32"), nothing)
    with FakeTensorMode(), mock.patch.multiple(chunked_logprob, **kernels):
        states = torch.empty(tokens, hidden, dtype=torch.bfloat16, requires_grad=True)
        weight, labels = torch.empty(vocabulary, hidden, dtype=torch.bfloat16), torch.zeros(tokens, dtype=torch.long)
        meter = Meter([states, weight, labels])
        with meter:
            settings = (1.0, TILE_WIDTH, None, 1.0, ("log_probs", "is_top1"))
            ChunkedLogProbFunction.apply(states, weight, None, labels, *settings)[0].sum().backward()
    return meter.peak


def print_whole_logits() -> None:
    """The longest row of Llama-3.1-8B with a loss from whole logits, by the bytes that each logit takes."""
    run, module_map, plan = long_run(
        LLAMA_8B, "Llama-3.1-8B", "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
    )
    needs = estimate(run, module_map, plan.targets, plan.device, recompute=True)
    forward, *_ = needs.moments(1, PUBLISHED)
    rest = sum(needs.static.values()) + forward["activations"] + CUBLAS
    logits = PUBLISHED * module_map.vocab_size
    longest = replace(needs, whole_logits=True).largest(GPU_80)["max_length"]
    print(f"\nFrom whole logits, as planned with 12 bytes each: {longest:,} tokens fit.")
    print(
        f"{PUBLISHED:,} tokens: {logits / 1e9:.2f} billion logits, {2 * logits / 1e9:.1f} GB in bfloat16, "
        f"{4 * logits / 1e9:.1f} GB in float32; everything else {rest / 1e9:.1f} GB, which leaves "
        f"{(GPU_80 - rest) / logits:.0f} bytes for each."
    )


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
    highest = max(forward["activations"], *(sum(moment.values()) - CUBLAS for moment in others))
    return static + int(highest), real.static + max(real.kept, real.backward, needs.experts and real.forward)


if __name__ == "__main__":
    main()
