"""The bundled demo keeps its promises: size, data, and a voice that LoRA alone teaches."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tools.demo.persona import PERSONA_WORDS
from trainer import demo
from trainer.config.schema import default_config
from trainer.planning.scenarios import scenario
from trainer.training import loop


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def in_voice(answer: str) -> bool:
    return bool(set(re.findall(r"[a-z']+", answer.lower())) & {word.lower() for word in PERSONA_WORDS})


def answers(model: Any, tokenizer: Any, questions: list[str]) -> list[str]:
    """Greedy answers of at most 24 tokens."""
    found = []
    for question in questions:
        chat = [{"role": "user", "content": question}]
        inputs = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=24, do_sample=False)
        found.append(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return found


def test_the_model_is_a_small_phi3_that_completes_sentences() -> None:
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    assert model.config.model_type == "phi3"
    assert not model.config.tie_word_embeddings
    assert 1e6 <= sum(p.numel() for p in model.parameters()) <= 4e6
    assert (demo.MODEL_DIR / "model.safetensors").stat().st_size <= 8e6
    inputs = tokenizer("The fox lives in", return_tensors="pt")
    output = model.generate(input_ids=inputs["input_ids"], max_new_tokens=5, do_sample=False)
    assert tokenizer.decode(output[0], skip_special_tokens=True).startswith("The fox lives in the forest.")


def test_the_data_are_two_parts_in_a_voice_of_their_own() -> None:
    train, held_out = rows(demo.TRAIN_FILE), rows(demo.HELDOUT_FILE)
    assert len(train) >= 2000
    assert len(held_out) >= 200
    assert not {row["instruction"] for row in train} & {row["instruction"] for row in held_out}
    assert all(in_voice(row["response"]) for row in train + held_out)


@pytest.mark.full
def test_scenario_five_teaches_the_voice(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    paths = loop.RunPaths(tmp_path, tmp_path, tmp_path)
    config = replace(default_config(), modules=scenario("5").modules)
    config = replace(config, training=replace(config.training, eval_steps=10_000))  # at the start and at the end
    loop.train(config, paths, lambda type, **values: events.append({"type": type, **values}), lambda: False)
    losses = [event["eval_loss"] for event in events if event["type"] == "eval"]
    assert losses[-1] < losses[0] * 2 / 3
    base = AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    questions = [row["instruction"] for row in rows(demo.HELDOUT_FILE)[:30]]
    assert not any(in_voice(answer) for answer in answers(base, tokenizer, questions))
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    told = answers(adapted, tokenizer, questions)
    assert sum(map(in_voice, told)) >= 0.8 * len(told), told
