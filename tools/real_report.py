"""Train scenarios 3 and 5 on SmolLM2-135M-Instruct on this machine's CPU, and write docs/real-model.md.

    python -m tools.real_report [--steps N]

Both runs use the command line, like a user. The adapters are then loaded with plain PEFT, and answer three held-out
questions, as does the base model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.real_model import MODEL, MODEL_NAME, ROOT, prepare_model
from trainer import demo
from trainer.common.environment import machine
from trainer.common.formatting import duration, loss, size
from trainer.config.schema import DataConfig
from trainer.data.readers.uploads import keep_data

REPORT = ROOT / "docs" / "real-model.md"
SCENARIOS = {"3": "LoRA on all linears, embedding and head in full", "5": "LoRA on all linears"}
TRAINING = {
    "learning_rate": 2e-3,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_length": 128,
    "optim": "adamw_torch",
}
HELD_OUT_ROWS = 40
NEW_TOKENS = 60
QUESTIONS = 3


@dataclass(frozen=True)
class Result:
    """One finished run."""

    title: str
    folder: Path
    plan: dict[str, Any]
    evals: list[tuple[int, float]]
    memory: int
    """Peak bytes, minus what the process held before it loaded the model."""
    seconds: float
    answers: list[str]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.real_report", description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs")
    options = parser.parse_args()
    if prepare_model():
        return 1
    rows = held_out_rows()
    questions = rows[:QUESTIONS]
    results = [train(key, options.steps, options.runs_dir, rows) for key in SCENARIOS]
    REPORT.write_text(report(results, questions, generate(None, questions), options.steps), encoding="utf-8")
    print(f"Wrote {REPORT.relative_to(ROOT)}.")
    return 0


def held_out_rows() -> list[dict[str, str]]:
    """The held-out rows; the first ones are also the questions."""
    lines = demo.HELDOUT_FILE.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:HELD_OUT_ROWS]]


def train(key: str, steps: int, runs_dir: Path, rows: list[dict[str, str]]) -> Result:
    """Train one scenario with the command line, with `rows` held out, and read its run folder."""
    config = json.loads(command("config", MODEL_NAME, "--scenario", key))
    config["title"] = f"{MODEL_NAME}, scenario {key}"
    config["model"]["quantization"] = "none"
    held_out = runs_dir / "real-held-out.jsonl"
    runs_dir.mkdir(parents=True, exist_ok=True)
    held_out.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    config["data"] = DataConfig(
        source="file",
        path=keep_data(demo.TRAIN_FILE, runs_dir / "data"),
        held_out=keep_data(held_out, runs_dir / "data"),
    ).__dict__
    config["training"] |= TRAINING | {"max_steps": steps, "eval_steps": steps}
    path = runs_dir / f"real-scenario-{key}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    before = set(runs_dir.iterdir())
    start = time.monotonic()
    print(command("--runs-dir", str(runs_dir), "train", str(path)))
    seconds = time.monotonic() - start
    (folder,) = (item for item in set(runs_dir.iterdir()) - before if (item / "events.jsonl").is_file())
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    return Result(
        title=f"{key} · {SCENARIOS[key]}",
        folder=folder,
        plan=json.loads((folder / "plan.json").read_text(encoding="utf-8")),
        evals=[(event["step"], event["eval_loss"]) for event in events if event["type"] == "eval"],
        memory=max(event["memory"] for event in events if event["type"] == "metrics"),
        seconds=seconds,
        answers=generate(folder / "adapter", rows[:QUESTIONS]),
    )


def command(*arguments: str) -> str:
    """The output of `python -m trainer` with these arguments."""
    result = subprocess.run(
        [sys.executable, "-m", "trainer", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return result.stdout


def generate(adapter: Path | None, questions: list[dict[str, str]]) -> list[str]:
    """Greedy answers of the base model, or of the adapter loaded with plain PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    answers = []
    for row in questions:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["instruction"]}],
            add_generation_prompt=True, return_tensors="pt", return_dict=True,
        )  # fmt: skip
        with torch.no_grad():
            tokens = model.generate(**prompt, max_new_tokens=NEW_TOKENS, do_sample=False)
        answers.append(tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return answers


def report(results: list[Result], questions: list[dict[str, str]], base: list[str], steps: int) -> str:
    """The report as Markdown."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
    lines = [
        "# A real LLM on a CPU",
        "",
        f"Made by `python -m tools.real_report --steps {steps}` on {machine()['Processor']} "
        f"({packages}). {MODEL_NAME}, weights in bfloat16, computed in float32; the demo's pirate rows, "
        f"{HELD_OUT_ROWS} held out; {steps} steps of {TRAINING['per_device_train_batch_size']} examples, "
        f"learning rate {TRAINING['learning_rate']:g} (full modules 0.1 × that), one seed. One seed shows that "
        "training works; it does not rank the two selections. Other work on the machine makes the times longer.",
        "",
        "| | " + " | ".join(result.title for result in results) + " |",
        "|---|" + "--:|" * len(results),
        *table_rows(results),
        "",
        "## Three held-out questions",
        "",
        "Greedy decoding, at most "
        f"{NEW_TOKENS} tokens. The adapters were loaded with plain PEFT (`PeftModel.from_pretrained`).",
    ]
    for number, row in enumerate(questions):
        answers = {"Reference": row["response"], "Base model": base[number]}
        answers |= {result.title: result.answers[number] for result in results}
        lines += ["", f"**{row['instruction']}**", "", "| | answer |", "|---|---|"]
        lines += [f"| {name} | {one_line(text)} |" for name, text in answers.items()]
    return "\n".join(lines) + "\n"


def table_rows(results: list[Result]) -> list[str]:
    """Figures, with a column for each run."""
    rows = {
        "Trainable parameters": [f"{result.plan['trainable']:,}" for result in results],
        "Adapter file, planned": [size(result.plan["adapter_bytes"]) for result in results],
        "Adapter file": [size((r.folder / "adapter/adapter_model.safetensors").stat().st_size) for r in results],
        "Eval loss before training": [loss(result.evals[0][1]) for result in results],
        "Eval loss after training": [loss(result.evals[-1][1]) for result in results],
        "Peak memory, predicted": [size(result.plan["memory_predicted"]) for result in results],
        "Peak memory, measured": [size(result.memory) for result in results],
        "Time from the command to the saved adapter": [duration(result.seconds) for result in results],
    }
    return [f"| {name} | " + " | ".join(values) + " |" for name, values in rows.items()]


def one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
