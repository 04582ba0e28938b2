"""Runs one contender of benchmarks/gpu.py in this process: loads the quantized model, trains on full and ragged rows.

Needs torch, transformers, peft, bitsandbytes, trl and the trainer package; Unsloth only for its own row.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
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

from benchmarks.gpu_model import LINEARS, SIZES, VOCABULARY, rows, save_quantized  # noqa: E402
from benchmarks.memory_gpu import tokenizer  # noqa: E402
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick, TrainingConfig  # noqa: E402
from trainer.planning.schedule import Size  # noqa: E402

WARMUP, TIMED = 5, 20
OUTLIER = 3
"""Steps that take this many times the median are excluded, and counted."""
Task = dict[str, Any]


def run_config(task: Task) -> RunConfig:
    """The study's job with LoRA on every linear; without dropout, so that losses can be compared."""
    return RunConfig(
        model=ModelConfig(name=task["model"], quantization="nf4", dtype="bfloat16"),
        modules=tuple(Tick(name) for name in LINEARS[task["layout"]]),
        adapter=AdapterConfig(r=16, lora_alpha=16, lora_dropout=0.0),
        training=TrainingConfig(
            max_steps=WARMUP + TIMED,
            per_device_train_batch_size=task["micro"],
            gradient_accumulation_steps=task["accumulation"],
            max_length=task["length"],
            **task.get("set", {}),
        ),
    )


def full_rows(task: Task) -> Size:
    """The size of the data in which every example has the maximum length."""
    return Size(task["micro"] * task["accumulation"] * (WARMUP + TIMED), task["length"], task["length"])


class Clock:
    """Records times, losses and peak memory of one training with a callback."""

    def __init__(self) -> None:
        import torch
        from transformers import TrainerCallback

        self.ends: list[float] = []
        self.losses: list[float] = []
        self.peak: int | None = None
        """Overall peak, including trial passes before the first step."""
        self.gpu = torch.cuda.is_available()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        clock = self

        class Timer(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if clock.gpu:
                    torch.cuda.synchronize()
                clock.ends.append(time.perf_counter())
                if clock.gpu:
                    clock.peak = max(clock.peak or 0, int(torch.cuda.max_memory_allocated()))
                    if len(clock.ends) == WARMUP:
                        torch.cuda.reset_peak_memory_stats()

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if "loss" in logs:
                    clock.losses.append(float(logs["loss"]))

        self.callback = Timer()

    def figures(self, tokens: int, logged: bool) -> Task:
        """Step times in seconds, tokens per second, losses at the first and the last step, peak bytes."""
        import torch

        gaps = [b - a for a, b in zip(self.ends[WARMUP - 1 :], self.ends[WARMUP:], strict=False)]
        low, middle, high = statistics.quantiles(gaps, n=4)
        kept = [gap for gap in gaps if gap < OUTLIER * middle]  # the others recompiled something
        return {
            "step": middle,
            "iqr": high - low,
            "outliers": len(gaps) - len(kept),
            "tokens_per_second": tokens / len(self.ends) * len(kept) / sum(kept),
            "first_loss": self.losses[0] if logged else None,
            "last_loss": self.losses[-1] if logged else None,
            "peak": self.peak,
            "later_peak": int(torch.cuda.max_memory_allocated()) if self.gpu else None,
        }


def ours(task: Task, folder: Path) -> Task:
    """Like `loop.train`, with the performance settings of the plan."""
    import numpy as np
    from datasets import Dataset
    from transformers import set_seed

    from trainer.common import devices
    from trainer.data.preparation import PreparedData
    from trainer.models.discovery.discover import discover
    from trainer.models.locations import load_config
    from trainer.planning.memory.estimate import estimate
    from trainer.planning.memory.peak import seen_by_torch
    from trainer.planning.plan import make_plan
    from trainer.training import adapter
    from trainer.training.loading import compute_dtype, load_model
    from trainer.training.trainer import Outputs, build_trainer

    run, models = run_config(task), Path(task["folder"])
    module_map = discover(load_config(run.model, models), run.model.name)
    plan = make_plan(run, module_map, devices.device(), data=full_rows(task))
    assert not plan.issues, plan.issues
    base = load_model(run.model, models, plan, module_map, lambda *_, **__: None)
    set_seed(42)
    model = adapter.attach(base, plan, run.adapter, module_map)
    settings = plan.performance
    needs = estimate(run, module_map, plan.targets, devices.device(), recompute=settings.every_n_layers > 0)
    needs = replace(needs, masked=needs.layers)  # full rows need no mask
    needs = needs.with_performance(settings.every_n_layers, settings.gradient_accumulation_steps)
    predicted = seen_by_torch(needs.items(settings.per_device_train_batch_size, task["length"]))
    found: Task = {"predicted": predicted, "performance": settings.to_json(), "notes": []}
    for mode in task["modes"]:
        ids = rows(task, WARMUP + TIMED, mode == "ragged")
        sizes = [len(row) for row in ids]
        columns = {"input_ids": ids, "counts": [[True] * size for size in sizes], "length": sizes}
        data = PreparedData(Dataset.from_dict(columns), None, (), (), np.asarray(sizes))
        clock = Clock()

        def note(type: str, **values: Any) -> None:
            found["notes"].append(values["text"])

        trainer = build_trainer(run, settings, model, tokenizer(), data, Outputs(folder / mode, note))
        adapter.prepare(model, plan, compute_dtype(run.model))
        trainer.args.save_strategy = "no"
        trainer.add_callback(clock.callback)
        trainer.train()
        found[mode] = clock.figures(sum(sizes), logged=True)
        for module in model.modules():  # restore the initial state for the next mode
            module._compiled_call_impl = None
        report(found)
    return found


def batches(task: Task, chosen: Task, ids: list[list[int]], packed: bool) -> Task:
    """TRL's batch settings for the micro-batches that our plan chose: as many rows at once, and the same tokens."""
    per_step = task["micro"] * task["accumulation"]
    if packed:  # its packed rows are full: as many as hold a step's tokens
        per_step = max(1, round(per_step * sum(map(len, ids)) / len(ids) / task["length"]))
    rows = max(size for size in range(1, chosen["per_device_train_batch_size"] + 1) if per_step % size == 0)
    return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": per_step // rows}


def bare_trl(task: Task, folder: Path) -> Task:
    """A plain TRL script with its defaults, or with the settings that our plan chose."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, set_seed
    from trl import SFTConfig, SFTTrainer

    chosen, gpu = task.get("performance"), torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        Path(task["folder"]) / task["model"], dtype=torch.bfloat16, **({"device_map": {"": 0}} if gpu else {})
    )
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=16, lora_alpha=16, lora_dropout=0.0, target_modules=LINEARS[task["layout"]]
    )
    found: Task = {}
    for mode in task["modes"]:
        ids = rows(task, WARMUP + TIMED, mode == "ragged")
        settings: Task = {
            "output_dir": str(folder / mode), "max_steps": WARMUP + TIMED, "max_length": task["length"],
            "per_device_train_batch_size": task["micro"], "gradient_accumulation_steps": task["accumulation"],
            "learning_rate": 1e-4, "save_strategy": "no", "report_to": "none", "bf16": True, "use_cpu": not gpu,
            "warmup_steps": 0.1, "lr_scheduler_type": "linear",
        }  # fmt: skip
        if chosen:
            settings |= batches(task, chosen, ids, mode == "ragged")
            settings |= {"gradient_checkpointing": chosen["every_n_layers"] > 0, "optim": chosen["optim"]}
            settings |= {"logging_steps": 1, "packing": mode == "ragged", "torch_compile": chosen["torch_compile"]}
            os.environ["ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION"] = "true"  # layer by layer, like ours
            if chosen["use_liger_kernel"]:
                own = {"cross_entropy": False, "fused_linear_cross_entropy": False}
                settings |= {"use_liger_kernel": True, "liger_kernel_config": own}
            if chosen["every_n_layers"]:
                kept = {"use_reentrant": False, "every_n_layers": chosen["every_n_layers"]}
                settings["gradient_checkpointing_kwargs"] = kept
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
        found[mode] = clock.figures(tokens, logged=bool(chosen))
        report(found)
    return found


def unsloth(task: Task, folder: Path) -> Task:
    """Unsloth as documented, with its own checkpointing if ours uses any."""
    import unsloth  # type: ignore[import-not-found]  # must be imported first
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    chosen = task["performance"]
    model, _ = unsloth.FastLanguageModel.from_pretrained(
        str(Path(task["folder"]) / task["model"]), max_seq_length=task["length"], load_in_4bit=True
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=16, lora_dropout=0, bias="none", random_state=42,
        target_modules=LINEARS[task["layout"]],  # it only splits fused modules of its own checkpoints
        use_gradient_checkpointing="unsloth" if chosen["every_n_layers"] else False,
    )  # fmt: skip
    found: Task = {}
    for mode in task["modes"]:
        ids = rows(task, WARMUP + TIMED, mode == "ragged")
        clock = Clock()
        settings: Task = batches(task, chosen, ids, mode == "ragged") | {
            "output_dir": str(folder / mode), "max_steps": WARMUP + TIMED, "max_length": task["length"],
            "logging_steps": 1, "learning_rate": 1e-4, "warmup_steps": 0.1, "save_strategy": "no",
            "report_to": "none", "bf16": True, "optim": chosen["optim"], "packing": mode == "ragged",
        }  # fmt: skip
        SFTTrainer(
            model,
            args=SFTConfig(**settings),
            train_dataset=Dataset.from_dict({"input_ids": ids, "labels": ids}),
            processing_class=tokenizer(),
            callbacks=[clock.callback],
        ).train()
        found[mode] = clock.figures(sum(map(len, ids)), logged=True)
        report(found)
    return found


def ceilings(task: Task, folder: Path) -> Task:
    """The device's ceilings for this model's shapes and the chosen micro-batch, and the floor of a step."""
    import torch

    from benchmarks.gpu_ceilings import Shape, measure

    size, chosen = SIZES[task["size"]], task["performance"]
    shape = Shape(
        size["hidden_size"], size["intermediate_size"], size["num_hidden_layers"], size["num_attention_heads"],
        size["num_attention_heads"] // 4, VOCABULARY, task["layout"] == "phi3",
        chosen["per_device_train_batch_size"], task["length"],
    )  # fmt: skip
    measured = measure(shape, "cuda" if torch.cuda.is_available() else "cpu")
    return asdict(measured) | {"floor": measured.floor * chosen["gradient_accumulation_steps"]}


def prepare(task: Task, folder: Path) -> Task:
    """Save the quantized model, and return the settings that the plan chooses on this machine."""
    import torch

    from trainer.common import devices
    from trainer.models.discovery.discover import discover
    from trainer.models.locations import load_config
    from trainer.planning.plan import make_plan

    models = Path(task["folder"])
    if not (models / task["model"] / "config.json").exists():
        save_quantized(models / task["model"], task["layout"], task["size"])
    gc.collect()
    torch.cuda.empty_cache()  # no effect without a GPU
    run = run_config(task)
    device = devices.device()
    assert device.is_gpu == torch.cuda.is_available(), "the plan and torch see different devices"
    plan = make_plan(
        run,
        discover(load_config(run.model, models), run.model.name),
        replace(device, busy=False),
        data=full_rows(task),
    )
    return {"performance": plan.performance.to_json(), "needed": plan.needed, "device": device.name}


def report(found: Task) -> None:
    """Print the results so far; the last line counts."""
    print("\n" + json.dumps(found), flush=True)


CONTENDERS: dict[str, Callable[[Task, Path], Task]] = {
    "prepare": prepare, "ceilings": ceilings, "ours": ours, "trl": bare_trl, "unsloth": unsloth,
}  # fmt: skip


def main() -> None:
    if "--warm" in sys.argv:  # import in advance, until a task arrives
        for name in ("bitsandbytes", "datasets", "trl", "trainer.training.trainer"):
            importlib.import_module(name)
    task = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as folder:
        report(CONTENDERS[task["who"]](task, Path(folder)))


if __name__ == "__main__":
    main()
