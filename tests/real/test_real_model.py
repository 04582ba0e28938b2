"""A real LLM through the whole way: plan, training by the command line, and the adapter in plain PEFT."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tools.real_model import MODEL, MODEL_NAME, ROOT
from trainer.demo import HELDOUT_FILE, TRAIN_FILE

PARAMETERS = 134_515_008
TRAIN_ROWS, HELD_OUT_ROWS = 64, 16


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def held_out() -> list[dict[str, str]]:
    return [json.loads(line) for line in HELDOUT_FILE.read_text(encoding="utf-8").splitlines()[:HELD_OUT_ROWS]]


@pytest.fixture(params=["5", "3"], scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run of scenario 5 (LoRA on all linears) or 3 (embedding and head in full as well)."""
    folder = tmp_path_factory.mktemp(f"scenario-{request.param}")
    rows, few = folder / "train.jsonl", folder / "held_out.jsonl"
    rows.write_text("\n".join(TRAIN_FILE.read_text(encoding="utf-8").splitlines()[:TRAIN_ROWS]), encoding="utf-8")
    few.write_text("\n".join(HELDOUT_FILE.read_text(encoding="utf-8").splitlines()[:HELD_OUT_ROWS]), encoding="utf-8")
    config = json.loads(command("config", MODEL_NAME, "--scenario", request.param))
    config["model"]["quantization"] = "none"
    config["data"] = json.loads(command("config", MODEL_NAME))["data"]
    config["data"] |= {"source": "file", "path": keep(rows, folder), "held_out": keep(few, folder)}
    config["training"] |= {
        "learning_rate": 2e-3,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "max_length": 128,
        "eval_steps": 8,
        "optim": "adamw_torch",
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    events = command("--runs-dir", str(folder / "runs"), "train", str(path), "--json").splitlines()
    yield Path(json.loads(events[0])["folder"])


def command(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "trainer", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def keep(rows: Path, folder: Path) -> str:
    """Put a file where the runs of `folder` read theirs; its name there."""
    from trainer.data.readers.uploads import keep_data

    return keep_data(rows, folder / "runs" / "data")


def load(adapter: Path | None = None) -> Any:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    return (model if adapter is None else PeftModel.from_pretrained(model, str(adapter))).eval()


def answer_loss(model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> float:
    """Mean loss over the answers' tokens, computed here from the chat template alone."""
    total, count = 0.0, 0
    for row in rows:
        question = [{"role": "user", "content": row["instruction"]}]
        prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        answer = row["response"] + "<|im_end|>"
        ids = tokenizer(prompt + answer, add_special_tokens=False, return_tensors="pt").input_ids
        start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, start - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="sum"))
        count += ids.shape[1] - start
    return total / count


def test_the_model_is_the_real_one(tokenizer: Any) -> None:
    assert json.loads(command("modules", MODEL_NAME, "--json"))["parameters"] == PARAMETERS
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        answer = tokenizer.decode(load().generate(**prompt, max_new_tokens=12, do_sample=False)[0])
    assert "The capital of France is Paris" in answer


def test_a_run_learns_and_its_adapter_gives_the_same_loss_in_plain_peft(
    run: Path, tokenizer: Any, held_out: list[dict[str, str]]
) -> None:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    evals = [event["eval_loss"] for event in events if event["type"] == "eval"]
    assert evals[0] == pytest.approx(answer_loss(load(), tokenizer, held_out), rel=1e-4), "the base model's own loss"
    assert evals[-1] < 0.9 * evals[0]
    trained = load(run / "adapter")
    assert evals[-1] == pytest.approx(answer_loss(trained, tokenizer, held_out), rel=1e-4)
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    size = (run / "adapter" / "adapter_model.safetensors").stat().st_size
    assert size == pytest.approx(plan["adapter_bytes"], rel=0.01)
