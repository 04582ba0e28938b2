"""A short training teaches a model to stop: with the template it is served with, it ends its answers by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support import templates, tiny
from tests.support.lab import small_config
from trainer.config.schema import AdapterConfig, DataConfig, ModelConfig, Tick
from trainer.data.masking.chat_templates import choose
from trainer.data.readers.uploads import keep_data
from trainer.training import loop

MORE_TOKENS = 60
QUESTIONS = {"Who sat?": "the cat", "Who ran?": "the dog and the cat", "Where?": "on the hill", "Why?": "a"}
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}},
}


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def called(question: str, answer: str) -> dict[str, Any]:
    """A call of a tool, its result, and an answer that repeats it."""
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {}}}
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": answer},
            {"role": "assistant", "content": answer},
        ],
        "tools": [TOOL],
    }


def pair(question: str, answer: str) -> dict[str, Any]:
    return {"prompt": question + "\n", "completion": answer}


CASES = {
    "chat": (chat, tiny.CHAT, "<|end|>"),
    "pairs": (pair, None, "</s>"),
    "ChatML on a base model": (chat, None, "<|im_end|></s>"),
    "tools": (called, templates.QWEN25, "<|im_end|>"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.full] if name in ("tools", "pairs") else []) for name in CASES]
)
def test_a_model_stops_by_itself_after_a_short_training(name: str, tmp_path: Path) -> None:
    make, template, end = CASES[name]
    rows = [make(question, answer) for question, answer in QUESTIONS.items()]
    model, tokenizer = trained(tmp_path, rows, template)
    served = choose(DataConfig(), tokenizer, {"chat": 1})
    answers = {answer + end for answer in QUESTIONS.values()}  # which one is for longer trainings to tell
    for row in rows:
        if name == "pairs":
            assert written(model, tokenizer, row["prompt"], special=True) in answers
            continue
        for number, message in enumerate(row["messages"]):
            if message["role"] == "assistant":
                asked = served.render(row["messages"][:number], row.get("tools"), ask=True)
                said = written(model, tokenizer, asked, special=False)
                assert said.endswith(f"</tool_call>{end}") if "tool_calls" in message else said in answers, said


def trained(tmp_path: Path, rows: list[dict[str, Any]], template: str | None) -> tuple[Any, Any]:
    """A tiny Llama after 150 steps on `rows`, and the tokenizer it is served with."""
    folder = tiny.save_model(tmp_path / "models" / "base", "phi3", chat=False)
    tokenizer = templates.tokenizer(template)
    tokenizer.save_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder)
    base.resize_token_embeddings(len(tokenizer))
    base.save_pretrained(folder)
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {"learning_rate": 1e-2, "full_learning_rate": 1e-2, "eval_steps": 0, "max_length": 256}
    config = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=150, **settings)
    config = replace(
        config,
        model=ModelConfig(name="base", quantization="none"),
        modules=(Tick("o_proj"), Tick("lm_head", "full"), Tick("embed_tokens", "full")),
        adapter=AdapterConfig(r=8, lora_alpha=16, lora_dropout=0.0),
        data=DataConfig(source="file", path=keep_data(file, tmp_path / "data"), eval_fraction=0.0),
    )
    run = loop.RunPaths(tmp_path / "run", tmp_path / "models", tmp_path / "data")
    run.folder.mkdir()
    loop.train(config, run, lambda *_, **__: None, lambda: False)
    saved = run.folder / "adapter"
    kept = saved if (saved / "tokenizer.json").exists() else folder
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(saved)).eval()
    return model, AutoTokenizer.from_pretrained(kept)


def written(model: Any, tokenizer: Any, text: str, special: bool) -> str:
    """What the model writes after `text`, up to the first token that ends an answer."""
    ends = [tokenizer.eos_token, "<|end|>", "<|im_end|>"]
    known = [number for token in ends if (number := tokenizer.get_vocab().get(token)) is not None]
    asked = tokenizer(text, add_special_tokens=special, return_tensors="pt")
    with torch.no_grad():
        made = model.generate(**asked, max_new_tokens=MORE_TOKENS, do_sample=False, eos_token_id=known)
    said: str = tokenizer.decode(made[0, asked["input_ids"].shape[1] :])
    return said
