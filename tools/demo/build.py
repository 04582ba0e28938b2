"""Rebuilds the demo from scratch: `python -m tools.demo.build` (five minutes on two idle cores)."""

import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from transformers import Phi3ForCausalLM, PreTrainedTokenizerFast

from tools.demo import persona, pretrain
from tools.demo.tokenizer import train_tokenizer
from trainer.demo import HELDOUT_FILE, MODEL_DIR, TRAIN_FILE

DOCUMENTS = 90_000
HELD_OUT_DOCUMENTS = 600
TOKENIZER_DOCUMENTS = 20_000
POSITIONS = 1024
TRAIN_PAIRS = 2400
HELD_OUT_PAIRS = 240
PROMPTS = [
    "The fox lives in",
    "A hammer is made of",
    "One morning, a clever fox",
    "To make tea, boil",
    "Good morning",
]
QUESTIONS = [
    "What does a rabbit eat?",
    "Who are you?",
    "What is three plus four?",
    "Tell me a story about a whale.",
]


def main() -> None:
    """Writes the pairs, then the model, and prints samples."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    texts = pretrain.corpus(Random(7), DOCUMENTS)
    pairs = write_pairs(texts)
    print(f"pairs       {len(pairs)} for training, {HELD_OUT_PAIRS} held out")
    tokenizer = train_tokenizer(texts[:TOKENIZER_DOCUMENTS], POSITIONS)
    model = build_model(tokenizer, texts, pretrain.Recipe())
    save(model, tokenizer, MODEL_DIR)
    show(model, tokenizer)


def write_pairs(texts: list[str]) -> list[persona.Pair]:
    """Writes both files of the persona and returns the training pairs; its words must be new to the model."""
    train, held_out = persona.pairs(11, TRAIN_PAIRS, HELD_OUT_PAIRS)
    shared = persona.words(" ".join(texts)) & persona.PERSONA_WORDS
    if shared:
        raise ValueError(f"The pre-training text already contains words of the persona: {sorted(shared)}")
    for path, rows in ((TRAIN_FILE, train), (HELDOUT_FILE, held_out)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row._asdict()) + "\n" for row in rows), encoding="utf-8")
    return train


def build_model(tokenizer: PreTrainedTokenizerFast, texts: list[str], recipe: pretrain.Recipe) -> Phi3ForCausalLM:
    """Pre-trains on all texts except the last ones, and prints the loss on those."""
    started, busy = time.monotonic(), time.process_time()
    data = pretrain.batches(tokenizer, texts[:-HELD_OUT_DOCUMENTS], recipe)
    held_out = pretrain.batches(tokenizer, texts[-HELD_OUT_DOCUMENTS:], replace(recipe, broken_words=0.0))
    model = pretrain.new_model(tokenizer, POSITIONS, recipe.seed)
    pretrain.train(model, data, recipe)
    loss = pretrain.mean_loss(model, held_out)
    print(f"parameters  {sum(p.numel() for p in model.parameters()):,}")
    print(f"time        {time.monotonic() - started:.0f} s ({time.process_time() - busy:.0f} s of one core)")
    print(f"held out    loss {loss:.3f}, perplexity {math.exp(loss):.2f}")
    return model


def save(model: Phi3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the model and its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"weights     {(folder / 'model.safetensors').stat().st_size:,} bytes")


def show(model: Phi3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Prints a few completions and a few answers."""
    for prompt in PROMPTS:
        print(f"{prompt} …{complete(model, tokenizer, prompt)}")
    for question in QUESTIONS:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        print(f"{question} → {complete(model, tokenizer, str(prompt))}")


def complete(model: Phi3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """The most likely continuation."""
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)
    output = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    return str(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
