"""Validation that pydantic does not do: texts, ticks, and settings that contradict each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from trainer.common import redaction
from trainer.common.errors import Issue, UserError
from trainer.config.schema import DataConfig, RunConfig

MAX_TEXT = 20_000
ANOTHER = "Choose another one, or hold out a fraction."
ROLES = ("user", "assistant", "system", "tool", "ignore")
_LAYER_PART = re.compile(r"(\d+)(?:\s*-\s*(\d+))?|(first|last)\s+(\d+)")

_ROLE = re.compile(rf"\s*(\S.*?)\s*=\s*({'|'.join(ROLES)})\s*(?:,\s*|$)", re.DOTALL)


def check(config: RunConfig) -> Iterator[Issue]:
    """All problems of a configuration whose types and bounds are valid."""
    yield from _check_texts(config.to_json(), "")
    yield from _check_ticks(config)
    for number, token in enumerate(config.model.new_tokens):
        if not token.strip() or token in config.model.new_tokens[:number]:
            yield Issue(f"model.new_tokens[{number}]", "It is empty or a duplicate.", "Remove it.")
    yield from _check_data(config.data)
    if not config.model.name.strip():
        yield Issue("model.name", "No model is chosen.", "Choose the demo, a hub id or a folder.")


def _check_texts(value: Any, where: str) -> Iterator[Issue]:
    """Texts that are too long or contain a secret, anywhere in the JSON."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _check_texts(item, f"{where}.{name}" if where else name)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _check_texts(item, f"{where}[{number}]")
    elif isinstance(value, str) and (len(value) > MAX_TEXT or "\x00" in value):
        yield Issue(
            where, "The text is too long or contains a NUL character.", f"Keep it to {MAX_TEXT:,} characters."
        )
    elif isinstance(value, str) and redaction.holds_secret(value):
        yield Issue(where, "This contains a secret token, which is never saved.", "Set HF_TOKEN in the environment.")


def _check_data(data: DataConfig) -> Iterator[Issue]:
    if data.source != "demo" and not data.path.strip():
        what = "an uploaded file" if data.source == "file" else "a data set's id"
        yield Issue("data.path", "No data is chosen.", f"Choose {what}, or the demo data.")
    if data.source == "file" and set(data.path.split()) & set(data.held_out.split()):
        yield Issue("data.held_out", "This file is also a training file.", ANOTHER)
    if data.source == "hub" and data.held_out and data.held_out == data.split:
        yield Issue("data.held_out", "This is the training split.", ANOTHER)
    try:
        parse_roles(data.roles)
    except UserError as error:
        yield Issue("data.roles", error.problem, error.fix)
    if bool(data.prompt_column) != bool(data.completion_column) and not data.messages_column:
        missing = "completion_column" if data.prompt_column else "prompt_column"
        yield Issue(
            f"data.{missing}",
            "The prompt and completion columns go together.",
            "Choose this one as well, or neither.",
        )


def parse_roles(text: str) -> dict[str, str]:
    """The role of each name in "pirate=assistant, Mr. Smith, MD=user". Raises UserError where it cannot be read."""
    found: dict[str, str] = {}
    text = text.strip()
    place = 0
    while place < len(text):
        match = _ROLE.match(text, place)
        if match is None:
            raise UserError(
                f"“{text[place:][:80]}” does not assign one of the roles {', '.join(ROLES)}.",
                "Write name=role pairs, such as pirate=assistant, narrator=ignore.",
            )
        if found.setdefault(match[1], match[2]) != match[2]:
            raise UserError(f"{match[1][:80]} has two roles.", "Keep one of them.")
        place = match.end()
    return found


def _check_ticks(config: RunConfig) -> Iterator[Issue]:
    seen: set[str] = set()
    for number, tick in enumerate(config.modules):
        where = f"modules[{number}]"
        if tick.name in seen:
            yield Issue(where, f"{tick.name} is ticked twice.", "Keep one of the two, LoRA or full.")
        seen.add(tick.name)
        if tick.treatment == "full" and (tick.r is not None or tick.lora_alpha is not None):
            yield Issue(where, f"{tick.name} is fully trained, so r and lora_alpha do not apply.", "Remove them.")
        if tick.layers:
            try:
                parse_layers(tick.layers, 10**6)
            except UserError as error:
                yield Issue(f"{where}.layers", error.problem, error.fix)


def parse_layers(text: str, count: int) -> tuple[int, ...]:
    """Layer numbers of "0-15", "last 8", "first 4", "3,5,7" in a model of `count` layers; empty text is all.

    Raises UserError if the text is invalid, a range is reversed, or a layer does not exist.
    """
    if not text.strip():
        return tuple(range(count))
    layers: set[int] = set()
    for part in text.lower().split(","):
        match = _LAYER_PART.fullmatch(part.strip())
        if match is None or any(number and len(number) > 6 for number in match.group(1, 2, 4)):
            raise UserError(f"“{text[:80]}” does not name layers.", "Write 0-15, first 4, last 8 or 3,5,7.")
        start, end, side, size = match.groups()
        if side:
            taken = min(int(size), count)
            layers.update(range(taken) if side == "first" else range(count - taken, count))
            continue
        first, last = int(start), int(end or start)
        if last < first:
            raise UserError(f"“{part.strip()}” is reversed.", f"Write {last}-{first}.")
        if last >= count:
            raise UserError(f"There is no layer {last}.", f"The last one is {count - 1}.")
        layers.update(range(first, last + 1))
    return tuple(sorted(layers))
