"""Conversations in their many spellings as lists of {role, content}."""

from __future__ import annotations

from collections import Counter
from typing import Any

from trainer.config.rules import parse_roles
from trainer.config.schema import DataConfig
from trainer.data.rows.messages import (
    ROLE_KEYS,
    TEXT_KEYS,
    BadRow,
    Message,
    MessageReader,
    Undecided,
    columns_as_items,
    parsed,
)
from trainer.data.rows.role_names import COMMON, RoleNames

KEYS = (("role", "content"), ("from", "value"))
"""What most conversations call a message's role and text."""
MAX_NAMES = 1000
WORDS = {
    "user": "the user",
    "assistant": "the assistant",
    "system": "the system message",
    "tool": "a tool's result",
    "ignore": "ignored",
}
UNTRAINED = "every answer in it is marked as not to be trained on"


class ConversationReader:
    """Reads conversations, and remembers which names it took for which role and which it did not know."""

    def __init__(self, data: DataConfig) -> None:
        self._names = RoleNames(parse_roles(data.roles), data.assistant_role.strip())
        self.items = MessageReader(data.media)
        self.keys = KEYS[0]
        """What the messages call their role and their text."""
        self.taken: Counter[tuple[str, str]] = Counter()
        """(name, role) of names that do not speak for themselves."""
        self.unknown: Counter[str] = Counter()
        """Messages under names that nobody knows."""
        self.lacks_answers = False
        """Whether a conversation with such names has no other assistant."""

    def messages(self, items: list[Any]) -> list[Message]:
        """The messages of one conversation. Raises BadRow with the reason, Undecided for unknown roles."""
        if not items:
            raise BadRow("the conversation is empty")
        plain = self._plain(items)
        if plain is not None:
            return plain
        found = self._read(items)
        answers = [message for message in found if message["role"] == "assistant"]
        trained = [message for message in answers if message.get("weight") != 0]
        if not trained:
            raise BadRow(UNTRAINED if answers else "no answer in it")
        if any(not message["content"].strip() and "tool_calls" not in message for message in trained):
            raise BadRow("an answer is empty")
        return found

    def describe_names(self) -> str:
        """Which names were read as which roles, as a sentence; empty if all are common role names."""
        names = dict.fromkeys([*self._names.assigned, *(pair for pair, _ in self.taken.most_common(5))])
        said = [f"{name[:40]} is {WORDS[role]}" for name, role in names]
        return f"{'; '.join(said)}." if said else ""

    def speaks_first(self, items: list[Any]) -> str | None:
        """The role of the first message; None where it is not known."""
        return self._named(items[0])[1]

    def _plain(self, items: list[Any]) -> list[Message] | None:
        """The messages where all have a common role, a text and nothing else, and answers; else None."""
        usual = self._names.usual
        first = items[0]
        if type(first) is not dict:
            return None
        role_key, text_key = keys = KEYS["from" in first]
        found: list[Message] = []
        answered = False
        for item in items:
            if type(item) is not dict or len(item) != 2:
                return None
            name, content = item.get(role_key), item.get(text_key)
            if type(name) is not str or type(content) is not str or name not in usual:
                return None
            role = usual[name]
            if role == "assistant":
                if not content or content.isspace():
                    return None
                answered = True
            found.append({"role": role, "content": content})
        if not answered:
            return None
        self.keys = keys
        return found

    def _read(self, items: list[Any]) -> list[Message]:
        named = [self._named(item) for item in items]
        unknown = [name for name, role, _ in named if role is None]
        if unknown:
            self.unknown.update(name for name in unknown if name in self.unknown or len(self.unknown) < MAX_NAMES)
            self.lacks_answers = self.lacks_answers or "assistant" not in {role for _, role, _ in named}
            raise Undecided("it has roles that are not known")
        found: list[Message] = []
        for name, role, item in named:
            role = ("user" if found else "system") if role == "scene" else str(role)
            if COMMON.get(name) != role != "tool_call" and len(self.taken) < MAX_NAMES:
                self.taken[name, role] += 1
            if role == "ignore":
                continue
            for message in self.items.read(role, item):
                if role == "tool_call" and _takes_calls(found, message):
                    found[-1].setdefault("tool_calls", []).extend(message["tool_calls"])
                else:
                    found.append(message)
        return found

    def _named(self, item: Any) -> tuple[str, str | None, dict[str, Any]]:
        """The name, its role where it is known, and the message of an item. Raises BadRow where it has no name."""
        if not isinstance(item, dict):
            raise BadRow("a message is not an object")
        key = next((name for name in ROLE_KEYS if name in item), "role")
        name = item.get(key)
        if isinstance(name, dict):
            name = name.get("role")  # as ChatGPT exports it
        if not isinstance(name, str) or not name.strip():
            raise BadRow(f"a message has no {key}")
        if key != "role":
            self.keys = key, next((name for name in TEXT_KEYS if name in item), "value")
        return name, self._names.role(name), item


def as_items(value: Any) -> Any:
    """The messages in a column, however they are written there; anything else as it is."""
    return columns_as_items(parsed(value))


def as_messages(value: Any) -> list[Any] | None:
    """The messages in a value, however they are written; None where it holds none."""
    if value is None or (isinstance(value, str) and value.lstrip()[:1] not in ("[", "{")):
        return None
    items = as_items(value)
    if not isinstance(items, list) or not items or not isinstance(items[0], dict):
        return None
    return items if any(name in items[0] for name in ROLE_KEYS) else None


def _takes_calls(found: list[Message], message: Message) -> bool:
    """Whether a call of a tool goes on with the message before it: the assistant said something, then calls."""
    if not found or found[-1]["role"] != "assistant":
        return False
    return bool(found[-1].get("weight") == message.get("weight"))
