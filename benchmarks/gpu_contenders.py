"""One contender of benchmarks/gpu.py in this process: loads the quantised model, trains on full and on ragged rows.

Needs torch, transformers, peft, bitsandbytes, trl and the trainer package; Unsloth for its own row.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.memory_gpu import SHAPES, tokenizer  # noqa: E402
from trainer.config import AdapterConfig, ModelConfig, RunConfig, Tick, TrainingConfig  # noqa: E402

SIZES = SHAPES | {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 8}
}
LINEARS = {
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
WARM_UP, TIMED = 5, 20
VOCABULARY = 32064
Task = dict[str, Any]


def run_config(task: Task) -> RunConfig:
    """The study's job with LoRA on every linear; dropout off, so that losses can be compared."""
    return RunConfig(
        model=ModelConfig(name=task["model"], quantization="nf4", dtype="bfloat16"),
        modules=tuple(Tick(name) for name in LINEARS[task["layout"]]),
        adapter=AdapterConfig(r=16, lora_alpha=16, lora_dropout=0.0),
        training=TrainingConfig(
            max_steps=WARM_UP + TIMED,
            per_device_train_batch_size=task["micro"],
            gradient_accumulation_steps=task["accumulation"],
            max_length=task["length"],
            **task.get("set", {}),
        ),
    )


def save_quantised(path: Path, layout: str, size: str) -> None:
    """A model with random weights, made and quantised layer by layer, saved as transformers saves a 4-bit model."""
    import bitsandbytes as bnb
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, Phi3Config

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape: Task = SIZES[size] | {"num_key_value_heads": SIZES[size]["num_attention_heads"] // 4}
    shape |= {"vocab_size": VOCABULARY, "max_position_embeddings": 8192, "pad_token_id": 0}
    shape |= {"tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2}
    config = Phi3Config(**shape, sliding_window=None) if layout == "phi3" else LlamaConfig(**shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    torch.manual_seed(0)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            weight = torch.randn(module.out_features, module.in_features, device=device, dtype=torch.bfloat16) * 0.02
            made = bnb.nn.Linear4bit(
                1, 1, bias=False, compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4"
            )
            made.in_features, made.out_features = module.in_features, module.out_features
            made.weight = bnb.nn.Params4bit(
                weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=made
            ).to(device)
            model.set_submodule(name, made)
    for name, weight in list(model.named_parameters()):
        if weight.is_meta:
            values = torch.ones if "norm" in name else lambda *s, **k: torch.randn(*s, **k) * 0.02
            made = values(weight.shape, device=device, dtype=torch.bfloat16)
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, nn.Parameter(made, requires_grad=False))
    model.config.quantization_config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=["lm_head"],
    )  # fmt: skip
    model.save_pretrained(path)
    tokenizer().save_pretrained(path)


def rows(task: Task, ragged: bool) -> list[list[int]]:
    """Random tokens for all steps, full rows or of ragged lengths; the same in every process."""
    import numpy as np

    dice = np.random.default_rng(0)
    count = task["micro"] * task["accumulation"] * (WARM_UP + TIMED)
    lengths = np.clip(dice.lognormal(4.6, 0.8, count) * task["length"] / 512, 8, task["length"]).astype(int)
    sizes = lengths if ragged else np.full(count, task["length"])
    return [dice.integers(3, VOCABULARY - 1, size).tolist() for size in sizes]


class Clock:
    """Times, losses and peak memory of one training, kept by a callback."""

    def __init__(self) -> None:
        import torch
        from transformers import TrainerCallback

        self.ends: list[float] = []
        self.losses: list[float] = []
        self.gpu = torch.cuda.is_available()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        clock = self

        class Timer(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if clock.gpu:
                    torch.cuda.synchronize()
                clock.ends.append(time.perf_counter())

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if "loss" in logs:
                    clock.losses.append(float(logs["loss"]))

        self.callback = Timer()

    def figures(self, tokens: int, logged: bool) -> Task:
        """Step times in seconds, tokens per second, losses at the first and the last step, peak bytes."""
        import torch

        gaps = [b - a for a, b in zip(self.ends[WARM_UP - 1 :], self.ends[WARM_UP:], strict=False)]
        low, middle, high = statistics.quantiles(gaps, n=4)
        return {
            "step": middle,
            "iqr": high - low,
            "tokens_per_second": tokens / len(self.ends) * len(gaps) / sum(gaps),
            "first_loss": self.losses[0] if logged else None,
            "last_loss": self.losses[-1] if logged else None,
            "peak": int(torch.cuda.max_memory_allocated()) if self.gpu else None,
        }


def ours(task: Task, folder: Path) -> Task:
    """As `loop.train` makes it, with the levers that the plan picks."""
    import numpy as np
    from datasets import Dataset
    from transformers import set_seed

    from trainer import adapter, devices
    from trainer.data import Prepared
    from trainer.discover import discover
    from trainer.loading import compute_dtype, load_model
    from trainer.memory import seen_by_torch
    from trainer.models import load_config
    from trainer.plan import make_plan
    from trainer.trainers import build_trainer

    run, models = run_config(task), Path(task["folder"])
    module_map = discover(load_config(run.model, models), run.model.name)
    plan = make_plan(run, module_map, devices.device())
    assert not plan.issues, plan.issues
    base = load_model(run.model, models, plan, module_map, lambda *_, **__: None)
    set_seed(42)
    model = adapter.attach(base, plan, run.adapter, module_map)
    found: Task = {"predicted": seen_by_torch(plan.memory), "levers": plan.levers.to_json(), "notes": []}
    for mode in task["modes"]:
        ids = rows(task, mode == "ragged")
        sizes = [len(row) for row in ids]
        columns = {"input_ids": ids, "counts": [[True] * size for size in sizes], "length": sizes}
        data = Prepared(Dataset.from_dict(columns), None, (), (), np.asarray(sizes))
        clock = Clock()

        def note(type: str, **values: Any) -> None:
            found["notes"].append(values["text"])

        trainer = build_trainer(run, plan.levers, model, tokenizer(), data, folder / mode, note)
        adapter.prepare(model, plan, compute_dtype(run.model))
        trainer.args.save_strategy = "no"
        trainer.add_callback(clock.callback)
        trainer.train()
        found[mode] = clock.figures(sum(sizes), logged=True)
    return found


def bare_trl(task: Task, folder: Path) -> Task:
    """A plain TRL script at its defaults; with flags, told what our plan picked."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, set_seed
    from trl import SFTConfig, SFTTrainer

    levers, gpu = task.get("levers"), torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        Path(task["folder"]) / task["model"], dtype=torch.bfloat16, **({"device_map": {"": 0}} if gpu else {})
    )
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=16, lora_alpha=16, lora_dropout=0.0, target_modules=LINEARS[task["layout"]]
    )
    found: Task = {}
    for mode in task["modes"]:
        ids = rows(task, mode == "ragged")
        settings: Task = {
            "output_dir": str(folder / mode), "max_steps": WARM_UP + TIMED, "max_length": task["length"],
            "per_device_train_batch_size": task["micro"], "gradient_accumulation_steps": task["accumulation"],
            "learning_rate": 1e-4, "save_strategy": "no", "report_to": "none", "bf16": True, "use_cpu": not gpu,
            "warmup_steps": 0.1, "lr_scheduler_type": "linear",
        }  # fmt: skip
        if levers:
            settings |= {key: levers[key] for key in ("per_device_train_batch_size", "gradient_accumulation_steps")}
            settings |= {"gradient_checkpointing": levers["every_n_layers"] > 0, "optim": levers["optim"]}
            settings |= {"logging_steps": 1, "packing": mode == "ragged"}
            if levers["every_n_layers"]:
                kept = {"use_reentrant": False, "every_n_layers": levers["every_n_layers"]}
                settings["gradient_checkpointing_kwargs"] = kept
            if mode == "ragged":  # its packs are full rows: as many of them as hold a batch's tokens
                share = sum(map(len, ids)) / len(ids) / task["length"]
                wanted = settings["per_device_train_batch_size"] * share
                settings["per_device_train_batch_size"] = max(1, round(wanted))
        clock = Clock()
        set_seed(42)
        trainer = SFTTrainer(
            model, args=SFTConfig(**settings), train_dataset=Dataset.from_dict({"input_ids": ids, "labels": ids}),
            processing_class=tokenizer(), callbacks=[clock.callback],
            **({} if hasattr(model, "peft_config") else {"peft_config": lora}),
        )  # fmt: skip
        trainer.train()
        model = trainer.model
        tokens = int(trainer._total_train_tokens)
        found[mode] = clock.figures(tokens, logged=bool(levers))
    return found


def unsloth(task: Task, folder: Path) -> Task:
    """Unsloth as its documentation says, with its own checkpointing where ours checkpoints at all."""
    import unsloth  # type: ignore[import-not-found]  # before all others, as it asks
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    levers = task["levers"]
    model, _ = unsloth.FastLanguageModel.from_pretrained(
        str(Path(task["folder"]) / task["model"]), max_seq_length=task["length"], load_in_4bit=True
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=16, lora_dropout=0, bias="none", random_state=42,
        target_modules=LINEARS["llama"],  # it takes fused models apart
        use_gradient_checkpointing="unsloth" if levers["every_n_layers"] else False,
    )  # fmt: skip
    found: Task = {}
    for mode in task["modes"]:
        ids = rows(task, mode == "ragged")
        clock = Clock()
        settings: Task = {key: levers[key] for key in ("per_device_train_batch_size", "gradient_accumulation_steps")}
        settings |= {
            "output_dir": str(folder / mode), "max_steps": WARM_UP + TIMED, "max_length": task["length"],
            "logging_steps": 1, "learning_rate": 1e-4, "warmup_steps": 0.1, "save_strategy": "no",
            "report_to": "none", "bf16": True, "optim": levers["optim"], "packing": mode == "ragged",
        }  # fmt: skip
        SFTTrainer(
            model,
            args=SFTConfig(**settings),
            train_dataset=Dataset.from_dict({"input_ids": ids, "labels": ids}),
            processing_class=tokenizer(),
            callbacks=[clock.callback],
        ).train()
        found[mode] = clock.figures(sum(map(len, ids)), logged=True)
    return found


def ceilings(task: Task, folder: Path) -> Task:
    """The device's ceilings on the shapes of this model and micro-batch, and the floor of a step."""
    import torch

    from benchmarks.gpu_ceilings import Shape, measure

    size = SIZES[task["size"]]
    shape = Shape(
        size["hidden_size"], size["intermediate_size"], size["num_hidden_layers"], size["num_attention_heads"],
        size["num_attention_heads"] // 4, VOCABULARY, task["layout"] == "phi3", task["micro"], task["length"],
    )  # fmt: skip
    made = measure(shape, "cuda" if torch.cuda.is_available() else "cpu")
    return asdict(made) | {"floor": made.floor * task["accumulation"]}


def prepare(task: Task, folder: Path) -> Task:
    """Save the quantised model, and tell what the plan picks on this machine."""
    from trainer import devices
    from trainer.discover import discover
    from trainer.models import load_config
    from trainer.plan import make_plan

    models = Path(task["folder"])
    if not (models / task["model"] / "config.json").exists():
        save_quantised(models / task["model"], task["layout"], task["size"])
    run = run_config(task)
    device = devices.device()
    plan = make_plan(run, discover(load_config(run.model, models), run.model.name), replace(device, busy=False))
    return {"levers": plan.levers.to_json(), "needed": plan.needed, "device": device.name}


WAYS: dict[str, Callable[[Task, Path], Task]] = {
    "prepare": prepare, "ceilings": ceilings, "ours": ours, "trl": bare_trl, "unsloth": unsloth,
}  # fmt: skip


def main() -> None:
    task = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        print("\n" + json.dumps(WAYS[task["who"]](task, Path(folder))))


if __name__ == "__main__":
    main()
