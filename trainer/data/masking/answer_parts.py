"""The texts that an answer is made of (reasoning, content, called tools), and where they are in a rendered text.

They are located by rendering once more with a mark in place of each: what the template writes around the marks
is what it writes around the texts. Where a template does more than put texts into places, each is located on
its own: what moves when a letter is added to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.data.rows.messages import Message

MARK = "Qz{}LabZq"
"""Stands for a text; plain letters, so that no template does anything to it."""
MARKS = re.compile(r"Qz\d+[a-z]\d*LabZq")
PROBE = "‡"
INLINE = re.compile(r"(\s*<think>\s*)(.*?)(\s*</think>\s*)(.*)", re.DOTALL)
"""Reasoning that stands in the content, as Qwen and DeepSeek write it."""
Part = Literal["reasoning", "content", "tool call"]
Place = tuple[int, int]


@dataclass(frozen=True)
class AnswerPart:
    """One text of an answer."""

    message: int
    part: Part
    mark: str
    text: str


def marked(messages: Sequence[Message]) -> tuple[list[Message], dict[str, AnswerPart]]:
    """The conversation with marks in place of the answers' texts, and what each stands for."""
    found: dict[str, AnswerPart] = {}

    def put(number: int, part: Part, text: str, place: int = 0) -> str:
        core = text.strip()
        if not core:
            return text
        mark = _mark(number, part, place)
        found[mark] = AnswerPart(number, part, mark, core)
        before, _, after = text.partition(core)
        return before + mark + after

    made = [_replaced(number, message, put) for number, message in enumerate(messages)]
    return made, found


def _mark(number: int, part: Part, place: int) -> str:
    return MARK.format(f"{number}{part[0]}{place}")


def _replaced(number: int, message: Message, put: Callable[..., str]) -> Message:
    """A message with `put(number, part, text)` in place of each text of an answer."""
    if message["role"] != "assistant":
        return message
    made = dict(message)
    if "reasoning_content" in message:
        made["reasoning_content"] = put(number, "reasoning", message["reasoning_content"], 1)
    inline = INLINE.fullmatch(message["content"])
    if inline is None:
        made["content"] = put(number, "content", message["content"])
    else:
        opening, reasoning, closing, rest = inline.groups()
        made["content"] = opening + put(number, "reasoning", reasoning) + closing + put(number, "content", rest)
    if "tool_calls" in message:
        made["tool_calls"] = [
            {
                **call,
                "function": {**call["function"], "name": put(number, "tool call", call["function"]["name"], place)},
            }
            for place, call in enumerate(message["tool_calls"])
        ]
    return made


def aligned(text: str, with_marks: str, parts: Mapping[str, AnswerPart]) -> dict[str, Place] | None:
    """Where in `text` the part of each mark stands; None where it is not the marked text with the parts put in.

    Parts whose mark the template leaves out are missing. One that is written twice stands where it comes first.
    """
    pieces, marks = MARKS.split(with_marks), MARKS.findall(with_marks)
    if any(mark not in parts for mark in marks) or not text.startswith(pieces[0]):
        return None
    places: dict[str, Place] = {}
    at = len(pieces[0])
    for number, mark in enumerate(marks):
        after, last = pieces[number + 1], number + 1 == len(marks)
        end = _end_of(parts[mark].text, text, at, after, last)
        if end is None:
            return None
        places.setdefault(mark, (at, end))
        at = end + len(after)
    return places if at == len(text) else None


def _end_of(part: str, text: str, place: int, after: str, last: bool) -> int | None:
    """Where a part ends that begins at `place` and is followed by `after`; None where it is not there."""
    end = place + len(part)
    if text.startswith(part, place) and text.startswith(after, end) and (not last or end + len(after) == len(text)):
        return end
    end = len(text) - len(after) if last else text.find(after, place)
    if not after or end < place or not text.startswith(after, end) or text[place:end].strip() not in part:
        return None
    return end


def probed(
    messages: Sequence[Message], text: str, parts: Mapping[str, AnswerPart], render: Callable[[list[Message]], str]
) -> dict[str, Place]:
    """As `aligned`, with two more renderings for each part: a letter before it, and one after it."""
    places: dict[str, Place] = {}
    for mark, part in parts.items():
        ends = common_prefix(text, render(_with_probe(messages, part, "{}" + PROBE)))
        start = common_prefix(text, render(_with_probe(messages, part, PROBE + "{}")))
        if start < ends <= start + 2 * len(part.text) and ends < len(text) + 1 and text[start:ends].strip():
            places[mark] = (start, ends)
    return places


def _with_probe(messages: Sequence[Message], part: AnswerPart, how: str) -> list[Message]:
    def put(number: int, kind: Part, text: str, place: int = 0) -> str:
        same = _mark(number, kind, place) == part.mark
        return text.replace(part.text, how.format(part.text), 1) if same else text

    return [_replaced(number, message, put) for number, message in enumerate(messages)]


def common_prefix(first: str, second: str) -> int:
    """How many characters two texts share at their beginning."""
    if second.startswith(first):
        return len(first)
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[:middle] == second[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
