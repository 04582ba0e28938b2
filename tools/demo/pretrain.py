"""Pre-training of the demo model: a small, randomly initialized Phi-3 and a plain training loop."""

import time
from dataclasses import dataclass
from random import Random

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

from tools.demo import english
from tools.demo.english import Message
from tools.demo.tokenizer import BOS, END, EOS

Tokens = torch.Tensor


@dataclass(frozen=True)
class Recipe:
    """How the demo model is pre-trained."""

    steps: int = 3200
    batch: int = 24
    """Texts per step."""
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.05
    broken_words: float = 0.2
    """Share of texts tokenized into smaller pieces than usual (BPE dropout)."""
    seed: int = 7


def model_config(tokenizer: PreTrainedTokenizerFast, positions: int) -> Phi3Config:
    """Phi-3's structure, small: fused projections, grouped keys and values, a head of its own."""
    return Phi3Config(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=10,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        original_max_position_embeddings=positions,
        tie_word_embeddings=False,
        sliding_window=None,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def new_model(tokenizer: PreTrainedTokenizerFast, positions: int, seed: int) -> Phi3ForCausalLM:
    """A randomly initialized model that stops at the end of a text and of a turn."""
    torch.manual_seed(seed)
    model = Phi3ForCausalLM(model_config(tokenizer, positions))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END)],
    )
    return model


def write_chat(messages: list[Message]) -> str:
    """A conversation as the chat template writes it (several times faster than the template)."""
    return BOS + "".join(f"<|{message['role']}|>{message['content']}{END}" for message in messages)


def corpus(rng: Random, documents: int) -> list[str]:
    """Plain texts and chats, half and half, mixed."""
    # Texts start with or without <s>, because users prompt in both ways.
    plain = [rng.choice([BOS, ""]) + text + EOS for text in english.plain_documents(rng, documents // 2)]
    texts = plain + [write_chat(messages) for messages in english.chats(rng, documents - len(plain))]
    rng.shuffle(texts)
    return texts


def batches(tokenizer: PreTrainedTokenizerFast, texts: list[str], recipe: Recipe) -> list[Tokens]:
    """The texts in padded batches, in random order; the texts of a batch are about equally long."""
    # One text per row: with several, a model this small is slow to learn which one a question belongs to.
    rng = Random(recipe.seed)
    rows = encode(tokenizer, texts, recipe.broken_words)
    found = []
    for start in range(0, len(rows), recipe.batch * 20):
        near = sorted(rows[start : start + recipe.batch * 20], key=len)
        found += [near[i : i + recipe.batch] for i in range(0, len(near), recipe.batch)]
    rng.shuffle(found)
    pad = tokenizer.pad_token_id
    return [pad_sequence([torch.tensor(row) for row in batch], True, pad) for batch in found]


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], broken_words: float) -> list[list[int]]:
    """Token ids of each text; a share of the texts is split into smaller pieces."""
    # Adapters cannot change a frozen head: each small piece needs a trained row before new words can be learned.
    backend = tokenizer.backend_tokenizer
    period = round(1 / broken_words) if broken_words else len(texts) + 1
    rows = []
    for number, text in enumerate(texts, start=1):
        backend.model.dropout = None if number % period else 0.3
        rows.append(backend.encode(text, add_special_tokens=False).ids)
    backend.model.dropout = None
    return rows


def train(model: Phi3ForCausalLM, data: list[Tokens], recipe: Recipe) -> float:
    """Trains in place, epoch after epoch; returns the seconds it took."""
    started = time.monotonic()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": norms, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=recipe.steps,
        pct_start=recipe.warmup / recipe.steps,
        cycle_momentum=False,
    )
    losses: list[float] = []
    model.train()
    for step in range(1, recipe.steps + 1):
        loss = loss_of(model, data[step % len(data)])
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 100 == 0:
            recent = sum(losses[-100:]) / 100
            print(f"step {step:5d}  loss {recent:.3f}  {time.monotonic() - started:5.0f} s", flush=True)
    model.eval()
    return time.monotonic() - started


def loss_of(model: Phi3ForCausalLM, batch: Tokens) -> Tokens:
    """Mean loss over the tokens of a batch, without padding."""
    labels = batch.masked_fill(batch == model.config.pad_token_id, -100)
    loss: Tokens = model(input_ids=batch, labels=labels, use_cache=False).loss
    return loss


@torch.no_grad()
def mean_loss(model: Phi3ForCausalLM, data: list[Tokens]) -> float:
    """Mean loss over batches."""
    return sum(float(loss_of(model, batch)) for batch in data) / len(data)
