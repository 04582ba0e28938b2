"""Held-out examples split into a prompt and its reference answer, to be answered while a model trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import orjson

from trainer.config.schema import DataConfig
from trainer.data.masking.chat_templates import Template
from trainer.data.masking.encoding import Encoder
from trainer.data.masking.loss_mask import JOINED, LossMasker
from trainer.data.masking.message_forms import merged
from trainer.data.preparation import DataSplit
from trainer.data.rows.messages import BadRow, Example, Message

MAX_SCANNED = 200
"""Held-out examples that are looked at: some have no answer within the maximum length, or repeat a prompt."""


@dataclass(frozen=True)
class SamplePrompt:
    """One prompt, as the model reads it and as a person does."""

    ids: tuple[int, ...]
    """Its tokens, up to where the answer begins: the same as in training."""
    text: str
    """The last message before the answer, or the first half of a plain text."""
    before: str
    """The messages before that one, each with its role; empty if there is none."""
    reference: str
    """The held-out answer."""
    reference_tokens: int
    end: int | None
    """The special token that ends the reference; None if none does."""


def sample_prompts(
    part: DataSplit, template: Template, data: DataConfig, count: int, max_length: int
) -> tuple[SamplePrompt, ...]:
    """Up to `count` different prompts from the first examples of `part`, each of fewer than `max_length` tokens.

    For a conversation, everything up to the last answer that begins within `max_length`; for a plain text, its first
    half. Always the same ones for the same data.
    """
    found: dict[tuple[int, ...], SamplePrompt] = {}
    for prompt in _prompts(part, template, data, max_length):
        if len(found) == count:
            break
        found.setdefault(prompt.ids, prompt)
    return tuple(found.values())


def _prompts(part: DataSplit, template: Template, data: DataConfig, max_length: int) -> Iterator[SamplePrompt]:
    # with loss on all tokens, the answers are where they are with loss on the answers
    masker = LossMasker(template, replace(data, loss_on="completion") if data.loss_on == "all" else data)
    tokens, rows = part.tokens.dataset(), part.checked.dataset()
    for place in islice(part.chosen.tolist(), MAX_SCANNED):
        item = tokens[place]
        if item["document"]:
            prompt = _of_document(item["input_ids"][:max_length], template)
        else:
            prompt = _of_conversation(orjson.loads(rows[item["row"]]["example"]), template, masker, max_length)
        if prompt is not None:
            yield prompt


def _of_document(ids: list[int], template: Template) -> SamplePrompt | None:
    half = len(ids) // 2
    text, rest = (readable(part, template.tokenizer) for part in (ids[:half], ids[half:]))
    return _prompt(ids, half, template, (text, "", rest)) if half else None


def _of_conversation(
    example: Example, template: Template, masker: LossMasker, max_length: int
) -> SamplePrompt | None:
    try:
        rendered = masker.one(example)
    except BadRow:
        return None
    messages = template.conversation(example)
    if JOINED in rendered.notes:
        messages = merged(messages)
    answers = [
        number
        for number, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("weight") != 0
    ][-len(rendered.spans) :]
    ((ids, spans),) = Encoder(template.tokenizer, template)([rendered], [False])
    if len(spans) != len(answers):  # an answer without tokens: which is whose is unknown
        return None
    for answer, (first, last) in reversed(list(zip(answers, spans, strict=True))):
        if first < max_length:
            reference = readable(ids[first:last], template.tokenizer)
            return _prompt(ids[:last], first, template, (*_shown(messages[:answer]), reference))
    return None


def _prompt(ids: list[int], first: int, template: Template, texts: tuple[str, str, str]) -> SamplePrompt:
    """`ids`: prompt and reference; the reference begins at `first`. `texts`: prompt, what is before it, reference."""
    special = {*template.tokenizer.all_special_ids, *template.tokenizer.added_tokens_decoder}
    end = ids[-1] if ids[-1] in special else None
    return SamplePrompt(tuple(ids[:first]), *texts, len(ids) - first, end)


def _shown(messages: list[Message]) -> tuple[str, str]:
    """The last message, and the ones before it."""
    *before, last = messages or [{"role": "user", "content": ""}]
    return last["content"], "\n\n".join(f"{message['role']}: {message['content']}" for message in before)


def readable(ids: list[int], tokenizer: Any) -> str:
    """Tokens as text, without special tokens and the space around."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.strip()
