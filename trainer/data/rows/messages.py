"""One message of a conversation, in its many spellings, as {role, content, …}: text in parts, tool calls, reasoning,
marks that say whether it is to be trained on."""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson

from trainer.config.schema import Media
from trainer.data.readers.limits import PROBLEM, checked

Message = dict[str, Any]
Example = dict[str, Any]
"""{"messages": [Message, …], "tools": […] where there are any}, or {"text": …}."""

ROLE_KEYS = ("role", "from", "speaker", "author")
TEXT_KEYS = ("content", "value", "text", "message", "parts")
KEPT = ("name", "tool_call_id")
"""What else of a message a chat template may read."""
REASONING = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")
CALLS = ("tool_calls", "function_call")
TRAINED = ("weight", "train", "training", "trainable", "loss")
UNTRAINED = ("masked", "mask")
FLAGS = {**dict.fromkeys(TRAINED, True), **dict.fromkeys(UNTRAINED, False)}
"""Marks of a message, and what their being true says of training on it."""
MEDIA = {
    **dict.fromkeys(("image", "image_url", "input_image"), "image"),
    **dict.fromkeys(("audio", "audio_url", "input_audio"), "audio"),
    **dict.fromkeys(("video", "video_url", "input_video"), "video"),
    **dict.fromkeys(("file", "document", "input_file"), "file"),
}
"""Types of parts that are not text."""
MAX_LITERAL = 300_000
"""Characters of a list that Python wrote; its parser takes a hundred times as much memory."""
MAX_FIELDS = 1000


class BadRow(Exception):
    """A row that cannot be used; the message is the reason."""


class Undecided(BadRow):
    """A row that waits for the user's decision."""


@dataclass
class Content:
    """What the content of a message holds."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)


class MessageReader:
    """Reads messages, and counts what of them no example holds."""

    def __init__(self, media: Media) -> None:
        self._media = media
        self.unused: Counter[str] = Counter()
        """Messages that have something in a field that is not used."""
        self.dropped: Counter[str] = Counter()
        """Images and the like that were left out."""

    def read(self, role: str, item: dict[str, Any]) -> list[Message]:
        """The message in `item`, results of tools in it as messages of their own. Raises BadRow."""
        key = next((name for name in TEXT_KEYS if item.get(name) is not None), "")
        if role == "tool_call":
            return [self._called(item, key)]
        content = self._content(item.get(key), role) if key else Content()
        message: Message = {"role": role, "content": "".join(content.texts)}
        if len(item) > 2 or not key or content.calls or content.reasoning:
            self._add_fields(message, item, key, content)
        if not key and "tool_calls" not in message and role != "tool":
            missing = next((name for name in TEXT_KEYS if name in item), "content")
            raise BadRow(f"a message has no {missing}")
        if content.results and not message["content"].strip() and role == "user":
            return content.results
        return [*content.results, message]

    def _add_fields(self, message: Message, item: dict[str, Any], key: str, content: Content) -> None:
        used = {key, next((name for name in ROLE_KEYS if name in item), "role")}
        message |= {name: item[name] for name in KEPT if isinstance(item.get(name), str)}
        if message["role"] == "assistant":
            calls = content.calls + [
                call for name in CALLS if item.get(name) for call in tool_calls(parsed(item[name]))
            ]
            if calls:
                message["tool_calls"] = calls
            self._add_reasoning(message, item, content, used)
            used |= {*CALLS, *FLAGS}
            if self.is_untrained(item):
                message["weight"] = 0
        elif message["role"] == "tool" and isinstance(item.get("tool_use_id"), str):
            message["tool_call_id"] = item["tool_use_id"]
            used.add("tool_use_id")
        for name, value in item.items():
            if (
                name not in used
                and name not in message
                and is_filled(value)
                and not (name in FLAGS and isinstance(value, bool | int | float))
            ):
                self.count(name)

    def _add_reasoning(self, message: Message, item: dict[str, Any], content: Content, used: set[str]) -> None:
        """The first reasoning that is there; another text of the same message stays unused."""
        found = "".join(content.reasoning)
        for name in REASONING:
            text = _joined(item.get(name))
            if text and found in ("", text):
                found = text
                used.add(name)
        if found.strip():
            message["reasoning_content"] = found

    def _called(self, item: dict[str, Any], key: str) -> Message:
        """What ShareGPT writes as a message of its own: a call of a tool."""
        call = parsed(item.get(key)) if key else None
        message: Message = {"role": "assistant", "content": "", "tool_calls": tool_calls(call)}
        if self.is_untrained(item):
            message["weight"] = 0
        return message

    def is_untrained(self, item: dict[str, Any]) -> bool:
        """Whether a mark of the message says that it is not to be trained on. Raises BadRow for a mark that cannot
        be read."""
        untrained = False
        for name, meaning in FLAGS.items():
            value = item.get(name)
            if value is None or value == "":
                continue
            if isinstance(value, str):
                value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(
                    value.strip().lower(), value
                )
            if not isinstance(value, bool | int | float):
                raise BadRow(f"the {name} of a message is neither true nor false")
            if value not in (0, 1):
                self.count(f"{name} other than 0 and 1")
            untrained = untrained or bool(value) is not meaning
        return untrained

    def count(self, name: str) -> None:
        if name in self.unused or len(self.unused) < MAX_FIELDS:
            self.unused[name] += 1

    def _content(self, value: Any, role: str) -> Content:
        """The parts of a message's content. Raises BadRow for one that is not text."""
        if isinstance(value, str):
            return Content([value])
        found = Content()
        if isinstance(value, dict) and isinstance(value.get("parts"), list):
            value = value["parts"]  # as ChatGPT exports it
        parts = value if isinstance(value, list) else [value]
        if role == "tool" and not all(isinstance(part, str) or _is_part(part) for part in parts):
            return Content([orjson.dumps(value).decode()])  # what a tool returned, as templates write it
        for part in parts:
            if isinstance(part, str):
                found.texts.append(part)
            elif isinstance(part, dict):
                self._add_part(found, part, role)
            else:
                raise BadRow("the content of a message is not text")
        return found

    def _add_part(self, found: Content, part: dict[str, Any], role: str) -> None:
        kind = str(part.get("type") or next((name for name in ("text", *MEDIA, "inlineData") if name in part), ""))
        if kind in MEDIA or kind == "inlineData":
            self.drop(MEDIA.get(kind, "file"))
        elif kind in ("thinking", "reasoning", "thought"):
            found.reasoning.append(_joined(part))
        elif kind in ("tool_use", "tool_call", "function_call") and role == "assistant":
            call = {"arguments": part.get("input", {}), **part}
            found.calls += tool_calls([{key: value for key, value in call.items() if key not in ("type", "input")}])
        elif kind in ("tool_result", "function_call_output"):
            found.results += self._result(part)
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            found.texts.append(part["refusal"])
        elif kind == "redacted_thinking":
            self.count("redacted_thinking")
        elif isinstance(part.get("text"), str):
            found.texts.append(part["text"])
        else:
            raise BadRow(f"a message holds a part of type {kind[:40] or 'None'}; only text can be trained on")

    def _result(self, part: dict[str, Any]) -> list[Message]:
        value = part.get("content", part.get("output"))
        content = self._content(value, "tool") if value is not None else Content([""])
        message = {"role": "tool", "content": "".join(content.texts)}
        call = part.get("tool_use_id", part.get("tool_call_id", part.get("call_id")))
        return [message | ({"tool_call_id": call} if isinstance(call, str) else {})]

    def drop(self, kind: str) -> None:
        """Leave out an image or the like, if that was asked for. Raises BadRow if not."""
        if self._media == "refuse":
            article = "an" if kind in ("image", "audio") else "a"
            raise BadRow(f"it holds {article} {kind}; only text can be trained on (media: drop trains on its text)")
        self.dropped[kind] += 1


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and ("type" in value or isinstance(value.get("text"), str))


def _joined(value: Any) -> str:
    """The texts in a string, a part of text, or a list of those."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return next(
            (text for name in ("text", *REASONING, "content", "summary") if (text := _joined(value.get(name)))), ""
        )
    return "".join(map(_joined, value)) if isinstance(value, list) else ""


def is_filled(value: Any) -> bool:
    """Whether there is anything in a value."""
    if isinstance(value, str):
        return bool(value) and not value.isspace()
    return value is not None and value != [] and value != {}


def tool_calls(value: Any) -> list[dict[str, Any]]:
    """Tool calls as templates read them: arguments as an object, not as text. Raises BadRow."""
    found = []
    for call in [value] if isinstance(value, dict) else value if isinstance(value, list) else [None]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if call is None or not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow("a tool call names no function")
        arguments = parsed(function.get("arguments", function.get("parameters")))
        made = {"name": function["name"], "arguments": {} if arguments in (None, "") else arguments}
        number = call.get("id", call.get("call_id"))
        found.append({"type": "function", "function": made, **({"id": number} if isinstance(number, str) else {})})
    return found


def parsed(value: Any) -> Any:
    """A list or object that was written as JSON text, or by Python; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        found = _literal(value)
    return value if found is None or PROBLEM in checked({"value": found}) else found


def _literal(text: str) -> Any:
    """The list or object whose `repr` a text is, also as numpy writes one; None where it is none."""
    if len(text) > MAX_LITERAL:
        return None
    try:
        return ast.literal_eval(re.sub(r"\}\s*\n\s*\{", "}, {", text.strip()))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def columns_as_items(value: Any) -> Any:
    """{"from": [a, b], "value": [c, d]} -> [{"from": a, "value": c}, …]; anything else as it is."""
    if not isinstance(value, dict) or not value or not all(isinstance(item, list) for item in value.values()):
        return value
    if len({len(item) for item in value.values()}) > 1:
        return value
    return [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
