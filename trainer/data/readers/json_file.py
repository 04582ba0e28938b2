"""Rows of a JSON file, in any of the layouts that people and pandas write.

    [row, …]                              orient="records"
    {"data": [row, …], "version": …}      the only list of objects, under any name; orient="table"
    {"question": […], "answer": […]}      columns
    {"question": {"0": …}, …}             orient="columns"
    {"0": row, "1": row, …}               orient="index", or rows by their ids
    {"columns": […], "data": [[…], …]}    orient="split"
    row row …                             objects one after the other; a single one, too

A row may also be a list of messages or a text. The file is read as a stream, an object twice: for its outline and
for its rows; each column by a reader of its own.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, BinaryIO, TextIO

from trainer.common.errors import UserError
from trainer.data.readers.json_text import JsonText
from trainer.data.readers.limits import MAX_COLUMNS, Row, row_of

Rows = Iterator[tuple[int, Row]]
Open = Callable[[], AbstractContextManager[BinaryIO]]


@dataclass
class Part:
    """What an object holds under one name."""

    opening: str
    """The first character of the value."""
    count: int = 0
    inner: set[str] = field(default_factory=set)
    """Kinds of the items: dict, list, other."""
    numbered: bool = True
    """Whether the names in an object are row numbers."""
    holds_messages: bool = False

    @property
    def is_rows(self) -> bool:
        return self.opening == "[" and self.inner == {"dict"}


class JsonFile:
    """Reads the rows of one file. `notes` says which of its parts they were found in."""

    def __init__(self, opened: Open, name: str, notes: list[str]) -> None:
        self._opened, self._name, self._notes = opened, name, notes

    def rows(self) -> Rows:
        """The rows. Raises UserError where the file is broken or its layout unknown."""
        with self._opened() as file, _text(file) as text:
            source = JsonText(text, self._name)
            if source.peek() == "[":
                yield from self._listed(source.items())
                if source.peek():
                    source.fail("The end", "something follows after the list")
                return
            if source.peek() != "{":
                raise UserError(f"{self._name} does not hold a list of examples.", "Write […] around them.", "data")
            parts, count = _outline(source)
            follows = source.peek()
            if follows not in ("", "{"):
                source.fail("The end", "something follows after the object")
        yield from self._one_by_one() if follows else self._of_object(parts, count)

    def _listed(self, items: Iterator[tuple[int, Any]]) -> Rows:
        for number, item in items:
            if isinstance(item, list) and not all(isinstance(part, dict) for part in item):
                raise UserError(
                    f"{self._name} holds lists of values, and nothing says what each value is.",
                    'Write objects, such as {"instruction": "…", "output": "…"} (in pandas: orient="records").',
                    "data",
                )
            yield number, row_of(item)

    def _of_object(self, parts: dict[str, Part], count: int) -> Rows:
        """The rows of a file that is one object with these parts, and `count` names in all."""
        lists = [name for name, part in parts.items() if part.opening == "["]
        if count == len(parts) and {"columns", "data"} <= set(lists) and parts["columns"].inner == {"other"}:
            return self._split()
        if all(part.opening == "{" for part in parts.values()) and (count > 1 or len(parts) > 1 or _is_wide(parts)):
            if count == len(parts) and all(part.numbered and part.count for part in parts.values()):
                return self._columns(list(parts))
            return self._by_id()
        if any(part.holds_messages for part in parts.values()):
            return self._one_by_one()
        found = [name for name in lists if parts[name].is_rows]
        if len(parts) == len(lists) == 1 and parts[lists[0]].inner == {"list"}:
            found = lists
        only_lists = bool(lists) and len(lists) == len(parts)
        even = len({parts[name].count for name in lists}) == 1
        if only_lists and len(found) < len(lists) and even:
            return self._columns(lists)
        if len(found) == 1:
            return self._under(found[0], [name for name in parts if name != found[0]])
        if len(found) > 1 or only_lists:
            raise self._several(found or lists, parts)
        return self._one_by_one()

    def _several(self, names: list[str], parts: dict[str, Part]) -> UserError:
        sizes = ", ".join(f"{name[:40]} ({parts[name].count:,})" for name in names[:8])
        if parts[names[0]].is_rows:
            fix = "Write the one to train on into a file of its own; another one may be the held-out file."
            return UserError(f"{self._name} holds several lists of examples: {sizes}.", fix, "data")
        fix = "Give each the same number of values, or write one list of objects."
        return UserError(f"The columns of {self._name} are not equally long: {sizes}.", fix, "data")

    def _under(self, name: str, others: list[str]) -> Rows:
        rest = f"; not used: {', '.join(other[:40] for other in others[:8])}" if others else ""
        self._notes.append(f"The rows of {self._name} are its list {name[:40]}{rest}.")
        return self._listed((number, item) for number, (_, item) in enumerate(self._entries(name), 1))

    def _columns(self, names: list[str]) -> Rows:
        if len(names) > MAX_COLUMNS:
            raise UserError(f"{self._name} has more than {MAX_COLUMNS} columns.", "Remove some.", "data")
        self._notes.append(f"The rows of {self._name} are written by columns.")
        for number, cells in enumerate(zip_longest(*map(self._entries, names), fillvalue=("", None)), 1):
            if len({label for label, _ in cells if isinstance(label, str)}) > 1:
                raise UserError(
                    f"The columns of {self._name} do not hold the same rows: see row {number}.",
                    'Write a list of objects (in pandas: orient="records").',
                    "data",
                )
            yield number, row_of(dict(zip(names, (value for _, value in cells), strict=True)))

    def _split(self) -> Rows:
        columns = [str(name) for _, name in self._entries("columns")]
        for number, (_, values) in enumerate(self._entries("data"), 1):
            fits = isinstance(values, list) and len(values) == len(columns)
            yield number, row_of(dict(zip(columns, values, strict=True)) if fits else None)

    def _by_id(self) -> Rows:
        self._notes.append(f"The rows of {self._name} are the objects under its names.")
        with self._opened() as file, _text(file) as text:
            source = JsonText(text, self._name)
            for number, name in enumerate(source.names(), 1):
                yield number, row_of(source.value(f"“{name[:40]}”"))

    def _one_by_one(self) -> Rows:
        """Objects one after the other."""
        with self._opened() as file, _text(file) as text:
            source, number = JsonText(text, self._name), 0
            while source.peek():
                number += 1
                yield number, row_of(source.value(f"Example {number}"))
                source.take(",")

    def _entries(self, name: str) -> Iterator[tuple[int | str, Any]]:
        """(number or name, value) of each item of the list or object under `name`."""
        with self._opened() as file, _text(file) as text:
            source = JsonText(text, self._name)
            for found in source.names():
                if found == name:
                    yield from _items(source, name)
                    return
                for _ in _items(source, found):
                    pass


def _text(file: BinaryIO) -> TextIO:
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _items(source: JsonText, name: str) -> Iterator[tuple[int | str, Any]]:
    """The items of the next list or object; of another value itself, without a number."""
    opening, what = source.peek(), f"“{name[:40]}”"
    if opening == "[":
        yield from source.items()
    elif opening == "{":
        for inner in source.names():
            yield inner, source.value(what)
    else:
        source.value(what)


def _outline(source: JsonText) -> tuple[dict[str, Part], int]:
    """The parts of the next object, of the first MAX_COLUMNS + 1 names; and how many names there are."""
    parts: dict[str, Part] = {}
    count = 0
    for name in source.names():
        count += 1
        part = Part(source.peek())
        for label, item in _items(source, name):
            if not part.count and isinstance(item, dict):
                part.holds_messages = part.opening == "[" and _is_message(item)
            part.inner.add("dict" if isinstance(item, dict) else "list" if isinstance(item, list) else "other")
            part.numbered = part.numbered and str(label).isdecimal()
            part.count += 1
        if len(parts) <= MAX_COLUMNS:
            parts[name] = part
    return parts, count


def _is_message(item: dict[str, Any]) -> bool:
    return bool({"role", "from"} & set(item)) and bool({"content", "value", "parts", "tool_calls"} & set(item))


def _is_wide(parts: dict[str, Part]) -> bool:
    return any(part.numbered and part.count for part in parts.values())
