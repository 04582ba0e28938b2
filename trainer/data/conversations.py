"""Conversations in their many spellings as lists of {role, content}: role names, parts, tool calls.

A role that is none of the known ones is a persona's name: it is the assistant's where there is a user,
and the user's where there is an assistant.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson

from trainer.data.readers.limits import PROBLEM, Row, checked

Message = dict[str, Any]
Example = dict[str, Any]
"""{"messages": [Message, …], "tools": […] where there are any}, or {"text": …}."""

ROLE_KEYS = ("role", "from", "speaker", "author")
TEXT_KEYS = ("content", "value", "text", "message")
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatbot", "ai"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response"), "tool"),
    **dict.fromkeys(("tool_call", "function_call"), "tool_call"),
}
COMMON = {name: role for name, role in ROLES.items() if role != "tool_call"}
Spoken = tuple[str, str | None, dict[str, Any]]
"""(name, role where the name tells it, message) of one item."""
KEPT = ("name", "tool_call_id", "reasoning_content")
"""What else of a message a chat template may read."""


class BadRow(Exception):
    """A row that cannot be used; the message is the reason."""


class Roles:
    """Reads conversations, and remembers which names it took for which role."""

    def __init__(self, assistant: str = "") -> None:
        self._assistant = assistant.strip()
        self.personas: Counter[tuple[str, str]] = Counter()
        """(name, role) of names that are no common ones."""
        self.keys = "role and content"

    def messages(self, items: list[Any]) -> list[Message]:
        """The messages of one conversation. Raises BadRow with the reason."""
        if not items:
            raise BadRow("the conversation is empty")
        plain = None if self._assistant else _plain(items)
        if plain is not None:
            return plain
        spoken: list[Spoken] = [self._spoken(item) for item in items]
        unknown = {name for name, role, _ in spoken if role is None}
        if unknown or self._assistant:
            spoken = self._with_personas(spoken, unknown)
        found = [_message(str(role), item) for _, role, item in spoken]
        answers = [message for message in found if message["role"] == "assistant" and message.get("weight") != 0]
        if not answers:
            raise BadRow("no answer in it")
        if any(not message["content"].strip() and "tool_calls" not in message for message in answers):
            raise BadRow("an answer is empty")
        return found

    def describe_personas(self) -> str:
        """Which names were read as which roles, as a sentence; empty if all are common role names."""
        names = [f"{name[:40]} is the {role}" for (name, role), _ in self.personas.most_common(5)]
        return f"{'; '.join(names)}." if names else ""

    def _spoken(self, item: Any) -> Spoken:
        if not isinstance(item, dict):
            raise BadRow("a message is not an object")
        key = "role" if "role" in item else next((name for name in ROLE_KEYS if name in item), "role")
        name = item.get(key)
        if not isinstance(name, str) or not name:
            raise BadRow(f"a message has no {key}")
        if key != "role":
            self.keys = f"{key} and {next((name for name in TEXT_KEYS if name in item), 'value')}"
        return name, ROLES.get(name) or ROLES.get(name.strip().lower()), item

    def _with_personas(self, spoken: list[Spoken], unknown: set[str]) -> list[Spoken]:
        known = {role for _, role, _ in spoken}
        if self._assistant:
            other = "user"
        elif "user" in known:
            other = "assistant"
        elif "assistant" in known:
            other = "user"
        elif len(unknown) == 1:
            other = "assistant"
        else:
            names = ", ".join(sorted(name[:40] for name in unknown)[:4])
            raise BadRow(
                f"the roles {names} name neither the user nor the assistant: say in assistant_role who answers"
            )
        found: list[Spoken] = []
        for name, role, item in spoken:
            taken = "assistant" if self._assistant and name == self._assistant else role or other
            if role is None or taken != role:
                self.personas[name, taken] += 1
            found.append((name, taken, item))
        return found


def _plain(items: list[Any]) -> list[Message] | None:
    """The messages where all of them have a common role, a text and nothing else, and answers; else None."""
    found: list[Message] = []
    answered = False
    for item in items:
        if type(item) is not dict or len(item) != 2:
            return None
        name, content = item.get("role"), item.get("content")
        if type(name) is not str or type(content) is not str or name not in COMMON:
            return None
        role = COMMON[name]
        if role == "assistant":
            if not content or content.isspace():
                return None
            answered = True
        found.append({"role": role, "content": content})
    return found if answered else None


def _message(role: str, item: dict[str, Any]) -> Message:
    key = next((name for name in TEXT_KEYS if name in item), "content")
    content = _content(item.get(key), key)
    if role == "tool_call":
        call = parsed(content)
        calls = [call] if isinstance(call, dict) else call
        return {"role": "assistant", "content": "", "tool_calls": _calls(calls)}
    message: Message = {"role": role, "content": content}
    if len(item) > 2:
        message |= {name: item[name] for name in KEPT if isinstance(item.get(name), str)}
        if item.get("tool_calls"):
            message["tool_calls"] = _calls(parsed(item["tool_calls"]))
        if item.get("weight") == 0:
            message["weight"] = 0
    if item.get(key) is None and "tool_calls" not in message:
        raise BadRow(f"a message has no {key}")
    return message


def _content(value: Any, key: str) -> str:
    """A message's text; parts of text are put together."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        other = next((part.get("type") for part in value if not isinstance(part.get("text"), str)), None)
        if other is None:
            return "".join(part["text"] for part in value)
        raise BadRow(f"a message holds a part of type {str(other)[:40]}; only text can be trained on")
    raise BadRow(f"{key} is not text")


def _calls(value: Any) -> list[dict[str, Any]]:
    """Tool calls as templates read them: arguments as an object, not as text."""
    found = []
    for call in value if isinstance(value, list) else [None]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if call is None or not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow("a tool call names no function")
        arguments = parsed(function.get("arguments", function.get("parameters", {})))
        made = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        if isinstance(call.get("id"), str):
            made["id"] = call["id"]
        found.append(made)
    return found


def parsed(value: Any) -> Any:
    """A list or object that was written as JSON text; anything else as it is."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            found = orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
        return value if PROBLEM in checked({"value": found}) else found
    return value


def text_of(row: Row, column: str) -> str:
    """The text in a column. Raises BadRow where there is none."""
    value = row.get(column)
    if isinstance(value, str):
        return value
    if value is None:
        raise BadRow(f"{column[:80]} is missing")
    raise BadRow(f"{column[:80]} is not text")
