"""Which columns of a row make an example: recognized by their names, or picked by hand.

An example is {"messages": […]} or {"text": …}; `conversations.py` reads conversations.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

from trainer.config.schema import DataConfig
from trainer.data.conversations import BadRow, Example, Message, Roles, parsed, text_of
from trainer.data.readers.limits import Row

Shape = Literal["chat", "instruction", "question_answer", "prompt_completion", "text"]
SHAPES: dict[str, str] = {
    "chat": "conversations",
    "instruction": "instructions and answers",
    "question_answer": "questions and answers",
    "prompt_completion": "prompts and completions",
    "text": "plain text",
}
"""What people call each shape."""

CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns")
PROMPTS = {
    "instruction": "instruction",
    "question": "question_answer",
    "query": "question_answer",
    "problem": "question_answer",
    "prompt": "prompt_completion",
    "user": "prompt_completion",
    "input": "prompt_completion",
}
ANSWERS = ("response", "output", "answer", "completion", "solution", "assistant", "reply", "target")
INPUTS = ("input", "context")
SYSTEMS = ("system", "system_prompt")
TEXTS = ("text", "content", "document", "body")
SHOWN_COLUMNS = 8


@dataclass(frozen=True)
class Columns:
    """The columns that make an example; empty where there is none."""

    messages: str = ""
    prompt: str = ""
    input: str = ""
    completion: str = ""
    system: str = ""
    text: str = ""
    tools: str = ""
    picked: bool = False
    """Whether a person chose them."""

    @property
    def pair(self) -> Shape:
        return PROMPTS.get(self.prompt.strip().lower(), "prompt_completion")  # type: ignore[return-value]


class FormatDetector:
    """Turns rows into examples, and remembers what it saw: shapes, columns, names of roles."""

    def __init__(self, data: DataConfig) -> None:
        self._data = data
        self._known: dict[tuple[str, ...], Columns] = {}
        self.roles = Roles(data.assistant_role)
        self.seen: Counter[tuple[Shape, Columns]] = Counter()
        self.names: dict[str, None] = {}
        """Every column's name, in the order of their coming."""

    def example(self, row: Row) -> Example:
        """The example in a row. Raises BadRow with the reason where there is none."""
        names = tuple(row)
        columns = self._known.get(names)
        if columns is None:
            columns = self._known[names] = self._columns(names)
        shape, example = self._read(row, columns)
        self.seen[shape, columns] += 1
        return example

    def _columns(self, names: tuple[str, ...]) -> Columns:
        if len(self.names) < 1000:
            self.names |= dict.fromkeys(names)
        if len(self._known) > 10_000:
            self._known.clear()
        data = self._data
        picks = {
            name: getattr(data, f"{name}_column").strip()
            for name in ("messages", "prompt", "input", "completion", "system", "text")
        }
        return picked(picks, names) if any(picks.values()) else detect_columns(names)

    def _read(self, row: Row, columns: Columns) -> tuple[Shape, Example]:
        if columns.messages:
            value = parsed(row.get(columns.messages))
            if isinstance(value, list):
                return "chat", self._chat(value, row, columns)
            if columns.picked:
                raise BadRow(f"{columns.messages} holds no conversation")
        if columns.prompt and columns.completion:
            return self._pair(row, columns)
        if columns.text:
            return "text", {"text": _filled(row, columns.text, "the text")}
        raise BadRow(_no_shape(row, columns))

    def _chat(self, value: list[Any], row: Row, columns: Columns) -> Example:
        return self._finished(self.roles.messages(value), row, columns)

    def _pair(self, row: Row, columns: Columns) -> tuple[Shape, Example]:
        question, answer = row.get(columns.prompt), row.get(columns.completion)
        if isinstance(question, list) and isinstance(answer, list):  # TRL's conversational prompts and completions
            messages = self.roles.messages([*question, *answer])
            for message in messages[: len(question)]:
                if message["role"] == "assistant":
                    message["weight"] = 0
            return "chat", self._finished(messages, row, columns)
        question = text_of(row, columns.prompt)
        more = row.get(columns.input) if columns.input else None
        if isinstance(more, str) and more.strip():
            question = f"{question}\n\n{more}" if question else more
        answer = _filled(row, columns.completion, "the answer")
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return columns.pair, self._finished(messages, row, columns)

    def _finished(self, messages: list[Message], row: Row, columns: Columns) -> Example:
        system = row.get(columns.system) if columns.system else None
        if isinstance(system, str) and system.strip() and (not messages or messages[0]["role"] != "system"):
            messages = [{"role": "system", "content": system}, *messages]
        tools = parsed(row.get(columns.tools)) if columns.tools else None
        if tools:
            if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
                raise BadRow(f"{columns.tools} is no list of tools")
            return {"messages": messages, "tools": tools}
        return {"messages": messages}

    def why(self) -> str:
        """One sentence: what was recognized, and how."""
        if not self.seen:
            return ""
        (shape, columns), _ = self.seen.most_common(1)[0]
        how = "picked" if columns.picked else "recognized"
        if shape == "chat":
            parts = columns.messages or f"{columns.prompt} and {columns.completion}"
            found = f"{SHAPES[shape]}: {parts} holds lists of messages with {self.roles.keys}"
        elif shape == "text":
            found = f"{SHAPES[shape]}: the column {columns.text}"
        else:
            found = f"{SHAPES[shape]}: the columns {columns.prompt} and {columns.completion}"
            found += f", with {columns.input} behind the {columns.prompt}" if columns.input else ""
        found += f", {columns.system} as the system message" if columns.system and shape != "text" else ""
        names = self.roles.describe_personas()
        return f"{how.capitalize()} as {found}.{f' {names}' if names else ''}"


def detect_columns(names: tuple[str, ...]) -> Columns:
    """The columns that their names tell; upper and lower case are one."""
    plain = {name.strip().lower(): name for name in reversed(names)}

    def first(known: Any, *without: str) -> str:
        return next((plain[name] for name in known if name in plain and plain[name] not in without), "")

    prompt = first(PROMPTS)
    completion = first(ANSWERS, prompt)
    others = first(CONVERSATIONS) or prompt or completion
    text = first(TEXTS) or (names[0] if len(names) == 1 and not others else "")
    return Columns(
        messages=first(CONVERSATIONS),
        prompt=prompt,
        input=first(INPUTS, prompt),
        completion=completion,
        system=first(SYSTEMS),
        text=text,
        tools=first(("tools", "functions")),
    )


def picked(picks: dict[str, str], names: tuple[str, ...]) -> Columns:
    """The columns that a person picked; an input or system column alone goes with what is recognized."""
    found = detect_columns(names)
    if not any(picks[name] for name in ("messages", "prompt", "completion", "text")):
        return replace(found, input=picks["input"] or found.input, system=picks["system"] or found.system)
    return Columns(**picks, tools=found.tools, picked=True)


def _filled(row: Row, column: str, what: str) -> str:
    text = text_of(row, column)
    if not text.strip():
        raise BadRow(f"{what} is empty")
    return text


def _no_shape(row: Row, columns: Columns) -> str:
    if columns.prompt or columns.completion:
        found, missing = (columns.prompt, "an answer") if columns.prompt else (columns.completion, "a prompt")
        return f"it has {found[:80]}, but no column with {missing}"
    return f"the columns {', '.join(list(row)[:SHOWN_COLUMNS])[:300] or '(none)'} make no known shape"
