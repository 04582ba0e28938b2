"""Tiny models from real config classes, with tokenizers trained on our own text. Created in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
)

from trainer.common import atomic

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
VOCABULARY = 300
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE of VOCABULARY tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["the cat sat on the mat and the dog ran to the other side of the hill"] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if chat:
        fast.chat_template = CHAT
    return fast


def config(kind: str) -> PreTrainedConfig:
    """Config of a tiny model: phi3 (fused, untied), llama (unfused, tied), gpt2 (Conv1D, tied), moe (experts)."""
    if kind == "phi3":
        return Phi3Config(**_SIZES, tie_word_embeddings=False, sliding_window=None)
    if kind == "llama":
        return LlamaConfig(**_SIZES, tie_word_embeddings=True)
    if kind == "gpt2":
        shape = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "bos_token_id": 1, "eos_token_id": 2}
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(vocab_size=VOCABULARY, **shape, **dropout)
    sizes = _SIZES | {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 24}
    return Qwen2MoeConfig(**sizes, num_experts=4, num_experts_per_tok=2, tie_word_embeddings=False)


def save_model(folder: Path, kind: str, seed: int = 0, chat: bool = True) -> Path:
    """Write a tiny model with random weights and its tokenizer into `folder`."""
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config(kind)).save_pretrained(folder)
    tokenizer(chat).save_pretrained(folder)
    return folder


def save_rows(path: Path, count: int = 64) -> Path:
    """Write a JSONL file of short questions and answers, atomically, since several tests may write it at once."""
    animals, places = ("cat", "dog", "owl", "hen"), ("mat", "hill", "roof", "barn")
    rows = [
        {
            "instruction": f"Where is the {animals[i % 4]} number {i}?",
            "response": f"The {animals[i % 4]} is on the {places[i // 4 % 4]}.",
        }
        for i in range(count)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        atomic.write(path, text)
    return path
