"""Trains with one contender in this process, on one CPU thread, and prints the figures as one JSON row.

python benchmarks/contenders.py '{"who": "ours", ...}', as called by benchmarks/cpu.py in the contender's
environment: only torch, transformers, peft and the contender itself are imported.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "trainer" / "demo" / "model"
LINEARS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
R, ALPHA = 16, 16
WARMUP = 5
"""Steps that are not timed."""
Task = dict[str, Any]


class Clock:
    """When each step ended, its loss, and which parameters train."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.spent: list[float] = []
        self.losses: list[float] = []
        self.names: list[str] = []

    def tick(self) -> None:
        """Record the end of a step."""
        self.ends.append(time.time())
        self.spent.append(time.process_time())

    def figures(self, task: Task) -> dict[str, Any]:
        """Median seconds per step (wall clock, CPU time), time to the first step, and throughput."""
        gaps, spent = (
            sorted(b - a for a, b in zip(times[WARMUP:], times[WARMUP + 1 :], strict=False))
            for times in (self.ends, self.spent)
        )
        return {
            "step": gaps[len(gaps) // 2],
            "step_cpu": spent[len(spent) // 2],
            "first": self.ends[0] - task["spawned"],
            "examples_per_second": task["batch"] * len(gaps) / (self.ends[-1] - self.ends[WARMUP]),
            "examples_per_cpu_second": task["batch"] * len(gaps) / (self.spent[-1] - self.spent[WARMUP]),
            "losses": self.losses,
            "names": hashlib.sha256("\n".join(sorted(self.names)).encode()).hexdigest()[:12],
        }


def callback(clock: Clock) -> Any:
    """A TrainerCallback that records into `clock`."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            clock.names = [name for name, weight in model.named_parameters() if weight.requires_grad]

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.tick()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                clock.losses.append(float(logs["loss"]))
            elif "train_loss" in logs and not clock.losses:  # with rare logging, only the mean at the end
                clock.losses.append(float(logs["train_loss"]))

    return Timer()


def ours(task: Task, clock: Clock, folder: Path) -> None:
    """A run as in the worker: plan, data, events, figures and checkpoints."""
    sys.path.insert(0, str(ROOT))
    from dataclasses import replace

    from trainer.config.schema import AdapterConfig, DataConfig, Tick, default_config
    from trainer.data.readers.uploads import keep_data
    from trainer.runs.event_log import EventWriter
    from trainer.training import loop
    from trainer.training.trainer import build_trainer

    config = default_config()
    settings = {"max_length": task["max_length"], "max_steps": task["steps"] if task["same"] else -1}
    settings |= {"learning_rate": task["learning_rate"], "per_device_train_batch_size": task["batch"]}
    same = {"packing": "off", "weight_decay": 0.0, "lr_scheduler_type": "linear", "warmup_ratio": 0.0}
    settings |= {"eval_steps": 0, "samples": 0, "num_train_epochs": 1} | (same if task["same"] else {})
    data = DataConfig(source="file", path=keep_data(Path(task["rows"]), folder / "data"))
    config = replace(
        config,
        modules=tuple(Tick(name) for name in LINEARS),
        adapter=AdapterConfig(r=R, lora_alpha=ALPHA, lora_dropout=0.0 if task["same"] else 0.05),
        data=replace(data, eval_fraction=0.0) if task["same"] or not task["evaluate"] else data,
        training=replace(config.training, **settings),
    )
    (folder / "run").mkdir()
    writer = EventWriter(folder / "run" / "events.jsonl", figures=True)

    def sink(type: str, **values: Any) -> None:
        writer.write(type, **values)
        if type == "metrics":
            clock.tick()
            clock.losses.append(values["loss"])

    def build(config: Any, performance: Any, model: Any, *rest: Any) -> Any:
        clock.names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        return build_trainer(config, performance, model, *rest)

    with mock.patch.object(loop, "build_trainer", build):
        loop.train(config, loop.RunPaths(folder / "run", folder / "models", folder / "data"), sink, lambda: False)


def bare_trl(task: Task, clock: Clock, folder: Path) -> None:
    """The script that TRL's documentation shows; with `same`, configured to do the same step as ours."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    set_seed(42)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows = load_dataset("json", data_files=task["rows"], split="train", cache_dir=str(folder / "cache"))
    rows = rows.map(
        lambda row: {
            "prompt": [{"role": "user", "content": row["instruction"]}],
            "completion": [{"role": "assistant", "content": row["response"]}],
        },
        remove_columns=rows.column_names,
    )
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    same = {"gradient_checkpointing": False, "logging_steps": 1, "learning_rate": task["learning_rate"]}
    arguments = SFTConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=task["batch"],
        max_length=task["max_length"],
        max_steps=task["steps"],
        use_cpu=True,
        bf16=False,
        report_to="none",
        **(same if task["same"] else {"learning_rate": task["learning_rate"]}),
    )
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=R,
        lora_alpha=ALPHA,
        lora_dropout=0.0 if task["same"] else 0.05,
        target_modules=LINEARS,
    )
    SFTTrainer(
        model,
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[callback(clock)],
    ).train()


def llamafactory(task: Task, clock: Clock, folder: Path) -> None:
    """LLaMA-Factory's own entry point with its defaults, on the same rows."""
    from llamafactory.train.tuner import run_exp

    columns = {"prompt": "instruction", "response": "response"}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": task["rows"], "columns": columns}}))
    run_exp(
        {
            "model_name_or_path": str(MODEL),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_target": ",".join(LINEARS),
            "lora_rank": R,
            "lora_alpha": ALPHA,
            "lora_dropout": 0.05,
            "dataset": "rows",
            "dataset_dir": str(folder),
            "cutoff_len": task["max_length"],
            "per_device_train_batch_size": task["batch"],
            "learning_rate": task["learning_rate"],
            "max_steps": task["steps"],
            "output_dir": str(folder / "out"),
            "use_cpu": True,
            "report_to": "none",
        },
        callbacks=[callback(clock)],
    )


def bare_loop(task: Task, clock: Clock, folder: Path) -> None:
    """No trainer: padded batches in random order, forward, backward, AdamW. The baseline of this machine."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(42)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows = [json.loads(line) for line in Path(task["rows"]).read_text().splitlines()]
    lora = LoraConfig(task_type="CAUSAL_LM", r=R, lora_alpha=ALPHA, lora_dropout=0.05, target_modules=LINEARS)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), lora).train()
    clock.names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        [w for w in model.parameters() if w.requires_grad], task["learning_rate"], fused=True
    )
    order = torch.randperm(len(rows)).tolist()
    for step in range(task["steps"]):
        indices = [order[(step * task["batch"] + number) % len(rows)] for number in range(task["batch"])]
        texts = [
            f"<s><|user|>{rows[p]['instruction']}<|end|><|assistant|>{rows[p]['response']}<|end|>" for p in indices
        ]
        batch = tokenizer(
            texts, return_tensors="pt", padding=True, truncation=True, max_length=task["max_length"],
            add_special_tokens=False,
        )  # fmt: skip
        answers = (batch["input_ids"] == tokenizer.convert_tokens_to_ids("<|assistant|>")).cumsum(1) > 0
        labels = batch["input_ids"].masked_fill((batch["attention_mask"] == 0) | ~answers, -100)
        loss = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, use_cache=False
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.losses.append(float(loss.detach()))
        clock.tick()


CONTENDERS: dict[str, Callable[[Task, Clock, Path], None]] = {
    "ours": ours,
    "trl": bare_trl,
    "llamafactory": llamafactory,
    "loop": bare_loop,
}


def main() -> None:
    import torch

    torch.set_num_threads(1)
    task, clock = json.loads(sys.argv[1]), Clock()
    with tempfile.TemporaryDirectory() as folder:
        CONTENDERS[task["who"]](task, clock, Path(folder))
    print("\n" + json.dumps(clock.figures(task)))


if __name__ == "__main__":
    main()
