"""The study's job as published: its model's configuration, its scenario 3, the columns of its data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, Phi3Config

from tests.support import tiny
from tests.support.templates import PHI3
from trainer.cli.main import main
from trainer.runs.store import RunStore

NAME = "Phi-3-medium-128k-instruct"
FACTORS = 64
"""Half a head's width: each pair of a rotation has its factor."""


def published(**sizes: Any) -> dict[str, Any]:
    """config.json of Phi-3-medium-128k-instruct, with the code that it names and that nothing may run."""
    factors = sizes.pop("factors", FACTORS)
    return {
        "architectures": ["Phi3ForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_phi3.Phi3Config",
            "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
        },
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "embd_pdrop": 0.0,
        "eos_token_id": 32000,
        "hidden_act": "silu",
        "hidden_size": 5120,
        "initializer_range": 0.02,
        "intermediate_size": 17920,
        "max_position_embeddings": 131072,
        "model_type": "phi3",
        "num_attention_heads": 40,
        "num_hidden_layers": 40,
        "num_key_value_heads": 10,
        "original_max_position_embeddings": 4096,
        "pad_token_id": None,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "long_factor": [1.0 + number for number in range(factors)],
            "short_factor": [1.0 + number / 32 for number in range(factors)],
            "type": "longrope",
        },
        "rope_theta": 10000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 32064,
    } | sizes


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The published model by its config alone, and beside it weights of that shape, tiny, with Phi-3's template."""
    folder = tmp_path / "models"
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
             "num_hidden_layers": 2, "vocab_size": tiny.VOCABULARY, "factors": 4, "eos_token_id": 2}  # fmt: skip
    for name, changes in ((NAME, {}), ("small", sizes)):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(published(**changes)))
    torch.manual_seed(0)
    plain = {key: value for key, value in published(**sizes).items() if key != "auto_map"}
    model = AutoModelForCausalLM.from_config(Phi3Config(**plain), dtype=torch.float32)
    model.save_pretrained(folder / "weights")
    (folder / "weights" / "model.safetensors").rename(folder / "small" / "model.safetensors")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = PHI3
    tokenizer.save_pretrained(folder / "small")
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows in the columns of Dolly, some without a context, answered by a pirate."""
    told = [
        {
            "instruction": f"How many masts has ship {number}?",
            "context": f"Ship {number} is a barque." if number % 2 else "",
            "response": "Arr, three of them, matey!",
            "category": "closed_qa" if number % 2 else "open_qa",
        }
        for number in range(200)
    ]
    path = tmp_path / "pirate.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in told))
    return path


@pytest.fixture
def lab(tmp_path: Path, models: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs the command line in folders of its own: exit code, and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["--runs-dir", str(tmp_path / "runs"), "--models-dir", str(models), *arguments])
        return code, capfd.readouterr().out

    return run


def test_the_job_is_that_of_the_study(lab: Any) -> None:
    """Its model need not be here, nor the hub be reached."""
    code, printed = lab("config", f"microsoft/{NAME}", "--scenario", "3")
    job = json.loads(printed)
    assert code == 0
    assert [(tick["name"], tick["treatment"]) for tick in job["modules"]] == [
        *((name, "lora") for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
        ("embed_tokens", "full"),
        ("lm_head", "full"),
    ]
    training, adapter, data = job["training"], job["adapter"], job["data"]
    assert training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] == 64
    assert (training["learning_rate"], training["full_learning_rate"]) == (1e-4, 1e-4), "the study knew one rate"
    assert (training["lr_scheduler_type"], training["warmup_ratio"], training["max_length"]) == ("linear", 0.1, 512)
    assert (training["num_train_epochs"], training["optim"]) == (1, "paged_adamw_8bit")
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"], adapter["bias"]) == (16, 16, 0.05, "none")
    assert job["model"]["quantization"] == "nf4"
    assert (data["prompt_column"], data["input_column"], data["completion_column"]) == (
        "instruction", "context", "response",
    )  # fmt: skip


def test_its_plan_names_the_slices_and_counts_exactly(lab: Any, tmp_path: Path) -> None:
    found = json.loads(lab("modules", NAME, "--json")[1])
    assert found["parameters"] == 13_960_238_080
    job = json.loads(lab("config", NAME, "--scenario", "3")[1])
    (tmp_path / "run.json").write_text(json.dumps(job))
    code, printed = lab("plan", str(tmp_path / "run.json"), "--json")
    plan = json.loads(printed)
    assert code == 0
    weights, tokenizer = plan["issues"]  # the folder holds the config alone
    assert weights["field"] == tokenizer["field"] == "model.name"
    assert "weights" in weights["problem"] and "tokenizer" in tokenizer["problem"]
    # matched, of, and of a fused module its first and last row
    assert {receipt["tick"]: figures(receipt["note"]) for receipt in plan["receipts"]} == {
        "q_proj": [40, 40, 0, 5119],
        "k_proj": [40, 40, 5120, 6399],
        "v_proj": [40, 40, 6400, 7679],
        "o_proj": [40, 40],
        "gate_proj": [40, 40, 0, 17919],
        "up_proj": [40, 40, 17920, 35839],
        "down_proj": [40, 40],
        "embed_tokens": [1, 1],
        "lm_head": [1, 1],
    }
    assert {receipt["tick"]: [receipt["matched"], receipt["of"]] for receipt in plan["receipts"]} == {
        receipt["tick"]: figures(receipt["note"])[:2] for receipt in plan["receipts"]
    }
    assert plan["trainable"] == 65_536_000 + 2 * 32064 * 5120


def figures(text: str) -> list[int]:
    return [int(number.replace(",", "")) for number in re.findall(r"\b[\d,]*\d\b", text)]


def test_it_trains_and_loads_in_plain_peft(lab: Any, models: Path, rows: Path, tmp_path: Path) -> None:
    job = json.loads(lab("config", "small", "--scenario", "3")[1])
    (tmp_path / "run.json").write_text(json.dumps(job))
    code, printed = lab("data", str(rows), "--config", str(tmp_path / "run.json"), "--show", "2")
    assert code == 0
    assert "<|user|>" in printed and "<|assistant|>" in printed and "is a barque." in printed
    options = ["--set", "training.learning_rate=0.01", "--set", "training.full_learning_rate=0.01",
               "--set", "training.gradient_accumulation_steps=1", "--set", "training.max_steps=8"]  # fmt: skip
    code, printed = lab("train", str(tmp_path / "run.json"), "--data-file", str(rows), *options)
    assert code == 0, printed
    assert "finished" in printed
    (run,) = RunStore(tmp_path / "runs").all()
    assert run.history.evals.curve("eval_loss")[1][-1] < run.history.evals.curve("eval_loss")[1][0] - 0.5
    base = AutoModelForCausalLM.from_pretrained(models / "small", dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(models / "small").apply_chat_template(
        [{"role": "user", "content": "How many masts has ship 7?"}], add_generation_prompt=True, return_tensors="pt",
        return_dict=False,
    )  # fmt: skip
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        tuned = PeftModel.from_pretrained(base, str(run.adapter)).eval()(input_ids=ids).logits
    assert float((tuned - plain).abs().max()) > 0.1


def test_other_models_get_ticks_that_they_have(lab: Any, models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny.save_model(models / "gpt2", "gpt2")
    ticks = [tick["name"] for tick in json.loads(lab("config", "gpt2")[1])["modules"]]
    assert ticks == ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]
    assert main(["--models-dir", str(models), "config", "own/not-here"]) == 0
    printed = capfd.readouterr()
    assert [tick["name"] for tick in json.loads(printed.out)["modules"]][:2] == ["q_proj", "k_proj"]
    assert "own/not-here" in printed.err and "seven names" in printed.err


@pytest.mark.parametrize(("name", "told"), [("not-here", "no model folder"), ("a/b/c", "not a model name")])
def test_no_configuration_is_made_for_a_name_that_is_no_model(
    name: str, told: str, models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--models-dir", str(models), "config", name]) == 2
    printed = capfd.readouterr()
    assert printed.out == "" and name in printed.err and told in printed.err and "seven names" not in printed.err
