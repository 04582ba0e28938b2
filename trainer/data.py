"""Examples: check, format, tokenise; which tokens count for the loss.

Rows of any known shape become conversations (`messages`) or plain text; `to_example` says which
columns make which shape. What counts is found in the rendered text itself, so any chat template will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import demo
from trainer.config import DataConfig, ModelConfig
from trainer.errors import UserError
from trainer.sources import PROBLEM, Row, read_file, read_hub, read_jsonl

IGNORED = -100
"""Label of tokens that do not count (PyTorch's cross entropy skips it)."""
SHOWN_PROBLEMS = 10
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
QUESTIONS = ("instruction", "question", "prompt", "query")
ANSWERS = ("response", "output", "answer", "completion")

Message = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """Tokenised examples: `datasets.Dataset`s with the columns input_ids and labels."""

    train: Any
    eval: Any | None
    notes: tuple[str, ...]
    """What was cut or left out, in sentences."""


def prepare(data: DataConfig, tokenizer: Any, max_length: int, seed: int, data_dir: Path) -> Prepared:
    """Read, check, split and tokenise. Raises UserError where the data cannot be trained on."""
    train, held_out = read_examples(data, seed, data_dir)
    notes: list[str] = []
    encoded = _encode_all(train, data, tokenizer, max_length, "training", notes)
    if len(encoded) == 0:
        raise UserError(
            "No token of this data counts for the loss: every answer is empty or beyond max_length.",
            "Raise max_length, or let all tokens count.",
            "data",
        )
    encoded_eval = _encode_all(held_out, data, tokenizer, max_length, "held-out", notes) if held_out else None
    return Prepared(encoded, encoded_eval if encoded_eval is not None and len(encoded_eval) else None, tuple(notes))


def read_examples(data: DataConfig, seed: int, data_dir: Path) -> tuple[list[Row], list[Row]]:
    """Checked rows, as {"messages": […]} or {"text": …}: training part and held-out part."""
    if data.source == "demo":
        return _checked(read_jsonl(demo.TRAIN_FILE)), _checked(read_jsonl(demo.HELDOUT_FILE))
    rows = _checked(read_file(data, data_dir) if data.source == "file" else read_hub(data))
    from random import Random

    Random(seed).shuffle(rows)
    size = round(len(rows) * data.eval_fraction)
    if size >= len(rows):
        size = 0
    return rows[size:], rows[:size]


def look(model: ModelConfig, data: DataConfig, models_dir: Path, data_dir: Path) -> dict[str, Any]:
    """A short account of the data for the page: rows, shape, the first example as the model sees it."""
    from trainer.models import load_tokenizer

    train, held_out = read_examples(data, 0, data_dir)
    tokenizer = load_tokenizer(model, models_dir)
    text, spans = render(train[0], data, tokenizer)
    return {"rows": len(train), "held_out": len(held_out), "text": text, "counts": spans}


def to_example(row: Row) -> Row:
    """A row of any known shape as {"messages": […]} or {"text": …}. Raises UserError with the reason."""
    if isinstance(row.get("messages"), list):
        return {"messages": [_message(item, "role", "content") for item in row["messages"]]}
    if isinstance(row.get("conversations"), list):
        return {"messages": [_message(item, "from", "value") for item in row["conversations"]]}
    question = next((name for name in QUESTIONS if name in row), None)
    answer = next((name for name in ANSWERS if name in row), None)
    if question and answer:
        asked, told = _text(row, question), _text(row, answer)
        if isinstance(row.get("input"), str) and row["input"].strip():
            asked += "\n\n" + row["input"]
        return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]}
    if "text" in row:
        return {"text": _text(row, "text")}
    raise UserError(
        f"the columns {', '.join(list(row)[:8]) or '(none)'} make no known shape",
        "Use messages, prompt and completion, instruction and response, question and answer, or text.",
        "data",
    )


def render(example: Row, data: DataConfig, tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    """The text of an example as the model sees it, and the character ranges of it that count."""
    if "text" in example:
        text = example["text"] + (tokenizer.eos_token or "")
        return text, [(0, len(text))]
    messages = example["messages"]
    if data.system_prompt and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": data.system_prompt}, *messages]
    text, spans = (_render_chat if tokenizer.chat_template else _render_plain)(messages, tokenizer)
    return text, [(0, len(text))] if data.loss_on == "all" else spans


def encode(example: Row, data: DataConfig, tokenizer: Any, max_length: int) -> dict[str, list[int]]:
    """input_ids and labels of one example, cut to `max_length` tokens."""
    text, spans = render(example, data, tokenizer)
    tokens = tokenizer(text, add_special_tokens="text" in example, return_offsets_mapping=True)
    labels = [
        token if any(start < last and first < end for first, last in spans) and end > start else IGNORED
        for token, (start, end) in zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)
    ]
    return {"input_ids": tokens["input_ids"][:max_length], "labels": labels[:max_length]}


def _render_chat(messages: list[Message], tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    """Answers are found by rendering the conversation up to each of them, with and without it."""

    def up_to(count: int, ask: bool) -> str:
        text = tokenizer.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=ask)
        return str(text)

    whole, spans = up_to(len(messages), False), []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            before = _common_prefix(up_to(number, True), whole) if number else 0
            after = _common_prefix(up_to(number + 1, False), whole)
            spans.append((before, after))
    return whole, spans


def _render_plain(messages: list[Message], tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    """For base models without a chat template: the texts one after the other, the end marked by EOS."""
    text, spans = "", []
    for message in messages:
        start = len(text)
        text += message["content"] + (tokenizer.eos_token or "" if message["role"] == "assistant" else "\n")
        if message["role"] == "assistant":
            spans.append((start, len(text)))
    return text, spans


def _common_prefix(first: str, second: str) -> int:
    if second.startswith(first):
        return len(first)
    return next(i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1])


def _encode_all(
    rows: list[Row], data: DataConfig, tokenizer: Any, max_length: int, part: str, notes: list[str]
) -> Any:
    from datasets import Dataset

    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    cut = empty = 0
    for row in rows:
        item = encode(row, data, tokenizer, max_length)
        cut += len(item["input_ids"]) == max_length
        if all(label == IGNORED for label in item["labels"]):
            empty += 1
            continue
        columns["input_ids"].append(item["input_ids"])
        columns["labels"].append(item["labels"])
    if cut:
        notes.append(f"{cut} of {len(rows)} {part} examples reach max_length {max_length} and may be cut off there.")
    if empty:
        notes.append(f"{empty} of {len(rows)} {part} examples are left out: nothing in them counts for the loss.")
    return Dataset.from_dict(columns)


def _checked(rows: Iterator[tuple[int, Row]]) -> list[Row]:
    """Every row as an example. Raises UserError with the bad rows, all of them counted, the first ones named."""
    good: list[Row] = []
    bad: list[str] = []
    for line, row in rows:
        try:
            good.append(_valid(to_example(row)) if PROBLEM not in row else _refuse(row[PROBLEM]))
        except UserError as error:
            bad.append(f"line {line}: {error.problem}")
    if bad:
        more = f" and {len(bad) - SHOWN_PROBLEMS} more" if len(bad) > SHOWN_PROBLEMS else ""
        raise UserError(
            f"{len(bad)} of {len(bad) + len(good)} rows cannot be used: {'; '.join(bad[:SHOWN_PROBLEMS])}{more}.",
            "Mend these rows, or take them out.",
            "data",
        )
    if not good:
        raise UserError("The data is empty.", "Choose a file with at least one example.", "data")
    return good


def _refuse(problem: str) -> Row:
    raise UserError(problem, cause="data")


def _valid(example: Row) -> Row:
    if "messages" in example:
        if not any(item["role"] == "assistant" and item["content"].strip() for item in example["messages"]):
            _refuse("no answer in it")
    elif not example["text"].strip():
        _refuse("the text is empty")
    return example


def _message(item: Any, role_key: str, text_key: str) -> Message:
    if not isinstance(item, dict) or not isinstance(item.get(role_key), str):
        raise UserError(f"a message has no {role_key}", cause="data")
    role = ROLES.get(item[role_key], item[role_key])
    if role not in ("system", "user", "assistant", "tool"):
        role = "assistant"  # a persona's name in the role, as the reference study did it
    return {"role": role, "content": _text(item, text_key)}


def _text(row: Row, key: str) -> str:
    if not isinstance(row.get(key), str):
        raise UserError(f"{key} is not text", cause="data")
    return str(row[key])
