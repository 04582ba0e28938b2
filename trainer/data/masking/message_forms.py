"""The form in which a chat template wants messages, found by rendering: arguments as text, content as parts, ….

Templates differ in what they can take. Tool arguments are an object in most and JSON text in some; content is a
string or a list of parts; ids of tool calls have nine letters; there is no system role. A template that refuses
one form, or renders it wrong, gets the other.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer.data.rows.messages import BadRow, Message

Render = Callable[[list[Message], Any, bool], str]
"""(messages, tools, whether an answer is asked for) → text. Raises BadRow where the template refuses."""
KEY, VALUE, TEXT, NAME = "QkLab", "QvLab", "QtLab", "QnLab"
TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "It looks something up.",
        "parameters": {"type": "object", "properties": {KEY: {"type": "string", "description": "What to look up."}}},
    },
}
LONG_IDS = 9
"""Characters that Mistral's templates want in the id of a tool call."""


@dataclass(frozen=True)
class MessageForm:
    """How messages are handed to a template."""

    arguments_as_text: bool = False
    content_as_parts: bool = False
    short_ids: bool = False
    """Whether ids of tool calls are rewritten to LONG_IDS characters."""
    folds_system: bool = False
    """Whether a system message goes to the start of the first user message."""

    def __call__(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as the template wants them; their text stays what it is."""
        if self == PLAIN and not any("tool_calls" in message or message["role"] == "tool" for message in messages):
            return list(messages)
        names: dict[str, str] = {}
        ids: dict[str, str] = {}
        return [self._one(message, names, ids) for message in messages]

    def _one(self, message: Message, names: dict[str, str], ids: dict[str, str]) -> Message:
        made = {key: value for key, value in message.items() if key != "weight"}
        if "tool_calls" in message:
            made["tool_calls"] = [self._call(call, names, ids) for call in message["tool_calls"]]
        if message["role"] == "tool":
            known = message.get("tool_call_id") or next(reversed(names), "")
            if names.get(known):
                made.setdefault("name", names[known])
            made["tool_call_id"] = ids.get(known, known)
        if self.content_as_parts and "content" in made:
            made["content"] = [{"type": "text", "text": made["content"]}] if made["content"] else []
        return made

    def _call(self, call: dict[str, Any], names: dict[str, str], ids: dict[str, str]) -> dict[str, Any]:
        known = call.get("id") or f"call{len(names):05d}"
        ids[known] = f"{len(ids):0{LONG_IDS}d}" if self.short_ids and len(known) != LONG_IDS else known
        function = dict(call["function"])
        names[known] = function["name"]
        if self.arguments_as_text and not isinstance(function["arguments"], str):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        return {**call, "id": ids[known], "function": function}


PLAIN = MessageForm()


def form_of(render: Render) -> MessageForm:
    """The form that a template takes; PLAIN where none helps, so that each row gets the template's own refusal."""
    form = PLAIN
    user = {"role": "user", "content": TEXT}
    if not _shows(render, form([user]), TEXT) and _shows(render, replace(form, content_as_parts=True)([user]), TEXT):
        form = replace(form, content_as_parts=True)
    system = {"role": "system", "content": VALUE}
    if not _shows(render, form([system, user]), VALUE, TEXT) and _shows(render, form([user]), TEXT):
        form = replace(form, folds_system=True)
    return _with_calls(form, render)


def _with_calls(form: MessageForm, render: Render) -> MessageForm:
    """The form with what tool calls need, by trying all of them on one call and its result."""
    for as_text, short in itertools.product((False, True), (False, True)):
        tried = replace(form, arguments_as_text=as_text, short_ids=short)
        if _renders_calls(render, tried):
            return tried
    return form


def _renders_calls(render: Render, form: MessageForm) -> bool:
    call = {"id": "c1", "type": "function", "function": {"name": NAME, "arguments": {KEY: VALUE}}}
    messages: list[Message] = [
        {"role": "user", "content": TEXT},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "QrLab", "tool_call_id": "c1"},
        {"role": "assistant", "content": TEXT},
    ]
    try:
        text, without = (render(form(part), [TOOL], False) for part in (messages, messages[:1]))
    except BadRow:
        return False
    wrong = (f"'{KEY}'", f'\\"{KEY}')  # Python's repr of an object, and JSON inside of JSON
    return (
        text.count(NAME) > without.count(NAME)
        and text.count(VALUE) > without.count(VALUE)
        and all(text.count(item) <= without.count(item) for item in wrong)
    )


def _shows(render: Render, messages: list[Message], *texts: str) -> bool:
    try:
        found = render(messages, None, False)
    except BadRow:
        return False
    return all(text in found for text in texts)


def folded(messages: Sequence[Message]) -> list[Message]:
    """The conversation with its system message at the start of the first user message."""
    system, *rest = messages
    first = next((place for place, message in enumerate(rest) if message["role"] == "user"), None)
    if first is None:
        return list(messages)
    user = {**rest[first], "content": f"{system['content']}\n\n{rest[first]['content']}"}
    return [*rest[:first], user, *rest[first + 1 :]]


def merged(messages: Sequence[Message]) -> list[Message]:
    """The conversation with messages of one role in a row as one, for templates that want strict turns."""
    found: list[Message] = []
    for message in messages:
        before = found[-1] if found else None
        same = before is not None and before["role"] == message["role"] and message["role"] != "tool"
        if before is None or not same or set(before) | set(message) != {"role", "content"}:
            found.append(message)
        else:
            found[-1] = {**before, "content": f"{before['content']}\n\n{message['content']}"}
    return found
