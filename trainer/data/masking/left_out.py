"""What of an example a chat template leaves out of its text, by kind of content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from trainer.data.masking.chat_templates import Tools
from trainer.data.rows.messages import Message

NAMES = {"system": "system message", "user": "user message", "tool": "tool result"}


def left_out(messages: Sequence[Message], tools: Tools, text: str) -> list[str]:
    """Kinds of content, one entry for each that is not in `text`; the answers' own texts are located elsewhere."""
    found = []
    for message in messages:
        if message["role"] in NAMES and not _is_in(message["content"].strip(), text):
            found.append(NAMES[message["role"]])
        for call in message.get("tool_calls", ()):
            if not all(_is_in(value, text) for value in _strings(call["function"]["arguments"])):
                found.append("tool call arguments")
        if message["role"] in ("user", "assistant") and not _is_in(message.get("name", ""), text):
            found.append("name of the speaker")
    if tools and not all(_is_in(_name(tool), text) for tool in tools):
        found.append("tool descriptions")
    return found


def _is_in(part: str, text: str) -> bool:
    """Whether a text is there, as it is or as it is written in JSON."""
    if part in text:
        return True
    written = orjson.dumps(part).decode()[1:-1]
    escaped = part.encode("ascii", "backslashreplace").decode()
    return written in text or escaped in text or all(line.strip() in text for line in part.splitlines())


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _name(tool: dict[str, Any]) -> str:
    function = tool.get("function", tool)
    return str(function.get("name", "")) if isinstance(function, dict) else ""
