"""Predicted against measured GPU memory: the plan's items beside `torch.cuda.max_memory_allocated`.

python benchmarks/memory_gpu.py                  prints the table of docs/benchmarks.md; needs a GPU, and no network
python benchmarks/memory_gpu.py --sizes 1b 14b   on models of these sizes (random weights, written to a folder first)
python benchmarks/memory_gpu.py --cases 0 7      only these rows Every row runs in its own process: two steps of a
real run, on rows of max_length tokens. Nothing is compiled, since the plan assumes uncompiled layers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick, TrainingConfig  # noqa: E402
from trainer.planning.schedule import batch_size  # noqa: E402

SHAPES: dict[str, dict[str, int]] = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "7b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "14b": {"hidden_size": 5120, "intermediate_size": 17920, "num_hidden_layers": 40, "num_attention_heads": 40},
}
LINEARS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    (LINEARS, {}),
    (LINEARS, {"activation_checkpointing": "off", "per_device_train_batch_size": 2}),
    (LINEARS, {"max_length": 2048, "per_device_train_batch_size": 2}),
    (LINEARS, {"optim": "adamw_torch"}),
    (LINEARS, {"quantization": "int8"}),
    (LINEARS, {"quantization": "fp8", "per_device_train_batch_size": 2}),
    (LINEARS, {"quantization": "none", "per_device_train_batch_size": 2}),
    (LINEARS, {"lora_dropout": 0.0, "activation_checkpointing": "off", "per_device_train_batch_size": 2}),
    (f"{LINEARS} *lm_head", {}),
    (f"{LINEARS} *lm_head *embed_tokens", {"gradient_accumulation_steps": 1}),
    ("o_proj lm_head", {}),
)
"""Ticks (`*` means full training), and changes of the study's settings."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=["1b"], choices=list(SHAPES))
    parser.add_argument("--families", nargs="+", default=["phi3", "llama"], choices=["phi3", "llama"])
    parser.add_argument("--cases", nargs="+", type=int, default=range(len(CASES)), choices=range(len(CASES)))
    parser.add_argument("--folder", type=Path, help="where to keep the models (default: a temporary folder)")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**options.one)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        print("| model | ticks | differs | predicted | measured | off |\n|---|---|---|---|---|---|")
        for name in (f"{family}-{size}" for size in options.sizes for family in options.families):
            for number in options.cases:
                ticks, changes = CASES[number]
                _print_row(name, ticks, changes, _in_subprocess(str(folder), name, number))


def _in_subprocess(folder: str, name: str, case: int) -> dict[str, Any]:
    task = json.dumps({"folder": folder, "name": name, "case": case})
    result = subprocess.run(
        [sys.executable, __file__, "--one", task], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if result.returncode:
        return {"problem": (result.stderr.strip().splitlines() or ["no output"])[-1][:120]}
    return json.loads(result.stdout.strip().splitlines()[-1])


def _print_row(name: str, ticks: str, changes: dict[str, Any], row: dict[str, Any]) -> None:
    short = ticks.replace(LINEARS, "all linears")
    differs = ", ".join(f"{key}={value}" for key, value in changes.items()) or "–"
    if "problem" in row:
        print(f"| {name} | {short} | {differs} | – | {row['problem']} | |", flush=True)
        return
    off = row["predicted"] / row["measured"] - 1
    print(
        f"| {name} | {short} | {differs} | {row['predicted'] / 1e9:.2f} GB | {row['measured'] / 1e9:.2f} GB "
        f"| {off:+.1%} |",
        flush=True,
    )
    print(" ".join(f"{item}={size / 1e9:.2f}" for item, size in row["items"].items() if size), file=sys.stderr)


def measure(folder: str, name: str, case: int) -> dict[str, Any]:
    """Two steps of one case in this process: predicted bytes (of torch allocations) and measured bytes."""
    import torch

    from trainer.common import devices
    from trainer.models.discovery.discover import discover
    from trainer.models.locations import load_config
    from trainer.planning.memory.peak import seen_by_torch
    from trainer.planning.plan import make_plan
    from trainer.training import adapter
    from trainer.training.loading import compute_dtype, load_model
    from trainer.training.trainer import Outputs, build_trainer

    models = Path(folder)
    if not (models / name / "config.json").exists():
        save_model(models / name, name)
    run = config_of(name, case)
    module_map = discover(load_config(run.model, models), name)
    plan = make_plan(run, module_map, devices.device())
    assert not plan.issues, plan.issues
    model = adapter.attach(load_model(run.model, models, plan, module_map, _note), plan, run.adapter, module_map)
    outputs = Outputs(models / "out", _note)
    trainer = build_trainer(run, plan.performance, model, tokenizer(), _data(run), outputs)
    adapter.prepare(model, plan, compute_dtype(run.model))
    trainer.args.save_strategy = "no"
    trainer.train()
    return {
        "predicted": seen_by_torch(plan.memory),
        "measured": int(torch.cuda.max_memory_allocated()),
        "items": plan.memory,
    }


def config_of(name: str, case: int) -> RunConfig:
    """The study's settings with the changes of the case."""
    ticks, changes = CASES[case]
    run = RunConfig(
        model=ModelConfig(name=name),
        modules=tuple(Tick(tick.lstrip("*"), "full" if tick[0] == "*" else "lora") for tick in ticks.split()),
        adapter=AdapterConfig(),
        training=TrainingConfig(
            max_steps=2, gradient_accumulation_steps=2, packing="off", torch_compile="off", use_liger_kernel="off"
        ),
    )
    for key, value in changes.items():
        part = next(part for part in ("model", "adapter", "training") if hasattr(getattr(run, part), key))
        run = replace(run, **{part: replace(getattr(run, part), **{key: value})})
    return run


def save_model(path: Path, name: str) -> None:
    """A model of this family and size with random weights in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

    family, _, size = name.partition("-")
    shape: dict[str, Any] = SHAPES[size] | {"num_key_value_heads": SHAPES[size]["num_attention_heads"] // 4}
    shape |= {"vocab_size": 32064, "max_position_embeddings": 8192, "pad_token_id": 0, "tie_word_embeddings": False}
    config = Phi3Config(**shape, sliding_window=None) if family == "phi3" else LlamaConfig(**shape)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(path)


def _data(run: RunConfig) -> Any:
    """Random tokens; every second row is one token shorter, so that attention needs a mask, as with real data."""
    import numpy as np
    import torch
    from datasets import Dataset

    from trainer.data.preparation import PreparedData

    training = run.training
    count = batch_size(training) * training.max_steps
    ids = torch.randint(3, 32000, (count, training.max_length)).tolist()
    rows = [row[: len(row) - number % 2] for number, row in enumerate(ids)]
    sizes = [len(row) for row in rows]
    columns = {"input_ids": rows, "counts": [[True] * size for size in sizes], "length": sizes}
    return PreparedData(Dataset.from_dict(columns), None, (), (), np.asarray(sizes))


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )


def _note(_type: str, text: str = "", **_: Any) -> None:
    """Print log events of the run, some of which explain a memory figure."""
    if text:
        print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
