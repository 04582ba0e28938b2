"""Turns rows into examples: {"messages": […]} or {"text": …}. `columns.py` says which columns make them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trainer.config.schema import DataConfig
from trainer.data.readers.limits import Row
from trainer.data.rows.columns import (
    MEDIA,
    Columns,
    Shape,
    detect_columns,
    filled_text,
    no_shape,
    picked_columns,
    text_of,
)
from trainer.data.rows.conversations import ConversationReader, as_items, as_messages
from trainer.data.rows.messages import BadRow, Example, Message, Undecided, is_filled, parsed
from trainer.data.rows.preferences import last_answer_alone, rating, transcript

PICKS = ("messages", "prompt", "input", "completion", "system", "text")
MAX_KNOWN, MAX_NAMES = 10_000, 1000
_CLOSER = " \t\r\n[{"
"""What JSON and what may be empty begin with; nothing does, too."""
_PLACE = re.compile(r"<(image|audio|video)>\n?")
Found = tuple[Shape, list[Example], tuple[str, ...]]
"""The shape of a row, its examples, and the columns that went into them."""


class LeftOut(BadRow):
    """A row that the user chose to leave out."""


class FormatDetector:
    """Turns rows into examples, and remembers what it saw: shapes, columns, names of roles, what was not used."""

    def __init__(self, data: DataConfig) -> None:
        self._data = data
        self._known: dict[tuple[str, ...], Columns] = {}
        self._pairs: dict[tuple[str, ...], Shape] = {}
        """Shapes of rows that are mostly read at a glance, by their columns."""
        self._rest: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[str, ...]] = {}
        self.reader = ConversationReader(data)
        self.seen: Counter[tuple[Shape, Columns]] = Counter()
        self.shape: Shape = "text"
        """Of the last row that was read."""
        self.names: dict[str, None] = {}
        """Every column's name, in the order of their coming."""
        self.unused: Counter[str] = Counter()
        """Rows that have something in a column that is not used."""
        self.preferences: Counter[str] = Counter()
        """Rows for preference training: pairs, good, bad."""
        self.several: Counter[str] = Counter()
        """Rows with several answers, and the examples that they make."""

    def examples(self, row: Row) -> list[Example]:
        """The examples in a row: one, or one for each of its answers. Raises BadRow with the reason where there is
        none, Undecided where the user has to decide, LeftOut where the user did."""
        names = tuple(row)
        columns = self._known.get(names)
        if columns is None:
            columns = self._known[names] = self._columns(names)
            if columns.is_plain_pair and len(self._pairs) < MAX_KNOWN:
                self._pairs[names] = columns.pair
        pair = self._pairs.get(names)
        quick = self._plain_pair(row, columns, pair) if pair else None
        if quick is not None:
            shape, found, used = quick
        elif columns.chosen or columns.rating:
            shape, found, used = self._preferred(row, columns)
        else:
            shape, found, used = self._read(row, columns)
        self.seen[shape, columns] += 1
        self.shape = shape
        if len(used) != len(names):
            self._count_unused(row, names, used)
        return found

    def _columns(self, names: tuple[str, ...]) -> Columns:
        if len(self.names) < MAX_NAMES:
            self.names |= dict.fromkeys(names)
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        picks = {name: getattr(self._data, f"{name}_column").strip() for name in PICKS}
        return picked_columns(picks, names) if any(picks.values()) else detect_columns(names)

    def _count_unused(self, row: Row, names: tuple[str, ...], used: tuple[str, ...]) -> None:
        rest = self._rest.get((names, used))
        if rest is None:
            if len(self._rest) > MAX_KNOWN:
                self._rest.clear()
            rest = self._rest[names, used] = tuple(name for name in names if name not in used)
        unused = self.unused
        for name in rest:
            value = row[name]
            if (value if type(value) is str else is_filled(value)) and (name in unused or len(unused) < MAX_NAMES):
                unused[name] += 1

    def _plain_pair(self, row: Row, columns: Columns, shape: Shape) -> Found | None:
        """The example of a row with a question and an answer in plain text; None where a closer look is due."""
        question, answer = row.get(columns.prompt), row.get(columns.completion)
        if type(question) is not str or type(answer) is not str or question[:1] in _CLOSER or answer[:1] in _CLOSER:
            return None
        used: tuple[str, ...] = (columns.prompt, columns.completion)
        if columns.input and (more := row.get(columns.input)):
            if type(more) is not str or more.isspace():
                return None
            question = f"{question}\n\n{more}"
            used = (columns.prompt, columns.completion, columns.input)
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return shape, [_verbatim({"messages": messages}, shape)], used

    def _preferred(self, row: Row, columns: Columns) -> Found:
        """What is good in a row for preference training; an ordinary row is read as such."""
        is_pair = bool(columns.chosen) and is_filled(row.get(columns.chosen)) and is_filled(row.get(columns.rejected))
        rated = None if is_pair or not columns.rating else rating(row.get(columns.rating))
        if not is_pair and rated is None:
            return self._read(row, columns)
        self.preferences["pairs" if is_pair else "good" if rated else "bad"] += 1
        if self._data.preference_rows == "stop":
            raise Undecided("it is a row for preference training")
        if rated is False:
            raise LeftOut(f"{columns.rating} is false")
        if not is_pair:
            shape, found, used = self._read(row, columns)
            used += (columns.rating,)
        else:
            shape, found, used = self._chosen(row, columns)
        for example in found:
            if "messages" in example:
                example["messages"] = last_answer_alone(example["messages"])
        return shape, found, used

    def _chosen(self, row: Row, columns: Columns) -> Found:
        value = as_items(row[columns.chosen])
        if isinstance(value, str) and not as_messages(row.get(columns.messages)):
            if columns.prompt:
                return self._pair(row, replace(columns, completion=columns.chosen))
            messages = transcript(value)
            if messages is None:
                raise BadRow(f"it has {columns.chosen[:80]}, but no column with a prompt")
            return self._chat(messages, row, columns, (columns.chosen,))
        last = [{"role": "assistant", "content": value}] if isinstance(value, str) else value
        last = [last] if isinstance(last, dict) else as_messages(last)
        if last is None:
            raise BadRow(f"{columns.chosen[:80]} is neither text nor messages")
        before: list[Any] = []
        used: tuple[str, ...] = (columns.chosen,)
        if self.reader.speaks_first(last) in ("assistant", "tool_call"):
            before, more = self._before(row, columns)
            used += more
        return self._chat([*before, *last], row, columns, used)

    def _before(self, row: Row, columns: Columns) -> tuple[list[Any], tuple[str, ...]]:
        """The messages before an answer, and the columns that they are in."""
        found = as_messages(row.get(columns.messages))
        if found:
            return found, (columns.messages,)
        found = as_messages(row.get(columns.prompt))
        if found:
            return found, (columns.prompt,)
        if not columns.prompt:
            raise BadRow("it has an answer, but no column with a prompt")
        question, used = self._question(row, columns)
        return [{"role": "user", "content": question}], used

    def _read(self, row: Row, columns: Columns) -> Found:
        if columns.messages:
            value = as_items(row.get(columns.messages))
            if isinstance(value, list):
                return self._chat(value, row, columns, (columns.messages,))
            if columns.picked or (isinstance(value, str) and value.lstrip()[:1] in ("[", "{")):
                raise BadRow(f"{columns.messages[:80]} holds no conversation that can be read")
        if columns.prompt and columns.completion:
            return self._pair(row, columns)
        if columns.text:
            return "text", [{"text": filled_text(row, columns.text, "the text")}], (columns.text,)
        raise BadRow(no_shape(row, columns))

    def _chat(self, items: list[Any], row: Row, columns: Columns, used: tuple[str, ...]) -> Found:
        example, more = self._finished(self.reader.messages(items), row, columns)
        return "chat", [example], used + more

    def _pair(self, row: Row, columns: Columns) -> Found:
        answer = row.get(columns.completion)
        asked, answered = as_messages(row.get(columns.prompt)), as_messages(answer)
        if asked or answered:  # TRL's conversational prompts and completions
            before, used = self._before(row, replace(columns, messages=""))
            ends = [answered] if answered else [_answer(text) for text in self._answers(row, columns)]
            found = [self._finished(self.reader.messages([*_unweighted(before), *end]), row, columns) for end in ends]
            return "chat", [example for example, _ in found], (*used, columns.completion, *found[0][1])
        question, used = self._question(row, columns)
        history = self._history(row, columns)
        used += (columns.completion, columns.history) if history else (columns.completion,)
        asking: list[Message] = [{"role": "user", "content": question}]
        if isinstance(answer, str) and answer and not answer.isspace():
            example, more = self._finished([*history, *asking, *_answer(answer)], row, columns)
            return columns.pair, [_verbatim(example, columns.pair)], used + more
        found = [
            self._finished([*history, *asking, *_answer(text)], row, columns) for text in self._answers(row, columns)
        ]
        return columns.pair, [_verbatim(example, columns.pair) for example, _ in found], used + found[0][1]

    def _question(self, row: Row, columns: Columns) -> tuple[str, tuple[str, ...]]:
        question = text_of(row, columns.prompt)
        more = row.get(columns.input) if columns.input else None
        if isinstance(more, str) and more and not more.isspace():
            return f"{question}\n\n{more}" if question else more, (columns.prompt, columns.input)
        return question, (columns.prompt,)

    def _answers(self, row: Row, columns: Columns) -> list[str]:
        """The different answers of a row. Raises BadRow where there is none."""
        value = row.get(columns.completion)
        if isinstance(value, dict) and "text" in value:
            value = value["text"]  # SQuAD's {"text": […], "answer_start": […]}
        if not isinstance(value, list):
            value = [filled_text({columns.completion: value}, columns.completion, "the answer")]
        texts = [item.get("text") if isinstance(item, dict) else item for item in value]
        if not all(isinstance(text, str) for text in texts if text is not None):
            raise BadRow(f"{columns.completion[:80]} is not text")
        found = list(dict.fromkeys(text for text in texts if text and text.strip()))
        if not found:
            raise BadRow("the answer is empty")
        if len(found) > 1:
            self.several.update(rows=1, examples=len(found))
        return found

    def _history(self, row: Row, columns: Columns) -> list[Message]:
        """Earlier turns: pairs of question and answer, or messages."""
        value = parsed(row.get(columns.history)) if columns.history else None
        if not isinstance(value, list) or not value:
            return []
        if as_messages(value):
            return self.reader.messages(value)
        if not all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_text, pair)) for pair in value):
            raise BadRow(f"{columns.history[:80]} is not a list of questions with their answers")
        names = ("user", "assistant")
        return [{"role": name, "content": text} for pair in value for name, text in zip(names, pair, strict=True)]

    def _finished(self, messages: list[Message], row: Row, columns: Columns) -> tuple[Example, tuple[str, ...]]:
        """The example with its system message and tools, and the columns that they are in."""
        used: tuple[str, ...] = ()
        if columns.media:
            messages = self._without_media(messages, row, columns)
        system = row.get(columns.system) if columns.system else None
        if isinstance(system, str) and system and not system.isspace():
            if not messages or messages[0]["role"] != "system":
                messages = [{"role": "system", "content": system}, *messages]
            if messages[0]["content"].strip() == system.strip():
                used = (columns.system,)
        tools = parsed(row.get(columns.tools)) if columns.tools else None
        if tools:
            if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
                raise BadRow(f"{columns.tools} is no list of tools")
            tools = [tool if "name" not in tool else {"type": "function", "function": tool} for tool in tools]
            return {"messages": messages, "tools": tools}, (*used, columns.tools)
        return {"messages": messages}, used

    def _without_media(self, messages: list[Message], row: Row, columns: Columns) -> list[Message]:
        """The messages without the places of the row's images. Raises BadRow where those are not to be left out."""
        for name in columns.media:
            value = row.get(name)
            shown = any(_PLACE.search(message["content"]) for message in messages)
            values = value if isinstance(value, list) else [value]
            if is_filled(value) and (shown or any(isinstance(item, dict | bytes) for item in values)):
                for _ in values:
                    self.reader.items.drop(MEDIA[name.strip().lower()])
                messages = [message | {"content": _PLACE.sub("", message["content"])} for message in messages]
        return messages


def _verbatim(example: Example, shape: Shape) -> Example:
    """A prompt and its completion are one text; an instruction and its answer are not."""
    return example | {"verbatim": True} if shape == "prompt_completion" else example


def _answer(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def _unweighted(items: Sequence[Any]) -> list[Any]:
    """The messages of a prompt, whose answers are context."""
    return [
        item if not isinstance(item, dict) or item.get("role") in ("user", "system") else {**item, "weight": 0}
        for item in items
    ]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
