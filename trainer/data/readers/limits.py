"""How large rows and files of data may be, and what makes a row unusable whatever it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from trainer.common.errors import UserError
from trainer.common.formatting import size

Row = dict[str, Any]
PROBLEM = "\0problem"
"""Key of a row that could not be read; no column can have this name."""

MAX_ROW_BYTES = 1_000_000
MAX_ROWS = 10_000_000
MAX_BAD = 10_000
"""Rows that cannot be used; a file with more is of another kind than it says."""
MAX_TEXT_BYTES = 8 * 2**30
"""All rows of a file together, once unpacked."""
MAX_COLUMNS = 256
MAX_NAME = 100
MAX_DEPTH = 16
MAX_VALUES = 20_000
"""Single values in one row."""


def lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers, without a byte order mark; None for one that is longer than a row may be.

    Raises UserError where all of them together are more than a file may hold.
    """
    number = total = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        total += len(line)
        if total > MAX_TEXT_BYTES:
            raise too_large(name)
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) <= MAX_ROW_BYTES or line.endswith(b"\n"):
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(65536)
            total += len(line)
            if total > MAX_TEXT_BYTES:
                raise too_large(name)
        yield number, None


def refuse_binary(head: bytes, name: str) -> None:
    """Raises UserError for a file whose beginning is no text: archives, pictures, UTF-16 without its mark."""
    if b"\0" in head or head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1")):
        raise UserError(f"{name} is not a text file.", "Save it as text in UTF-8.", "data")


def too_large(name: str) -> UserError:
    """The error for a file beyond the size limits."""
    return UserError(
        f"{name} has more than {MAX_ROWS:,} rows, or more than {size(MAX_TEXT_BYTES)} of text.",
        "Use a part of it.",
        "data",
    )


def capped(rows: Iterator[tuple[int, Row]], name: str) -> Iterator[tuple[int, Row]]:
    """The rows. Raises UserError where there are too many."""
    for count, row in enumerate(rows, 1):
        if count > MAX_ROWS:
            raise too_large(name)
        yield row


def sized(rows: Iterator[Row], name: str) -> Iterator[tuple[int, Row]]:
    """Rows of an Arrow table, numbered and checked. Raises UserError where they are too much text in all."""
    total = 0
    for number, row in enumerate(rows, 1):
        total += row_size(row)
        if total > MAX_TEXT_BYTES:
            raise too_large(name)
        yield number, row if PROBLEM in row else _without_nulls(checked(row))


def checked(row: Any) -> Row:
    """The row, or {PROBLEM: reason} where it holds what no tokenizer or memory can take."""
    if not isinstance(row, dict):
        return {PROBLEM: "not an object"}
    if len(row) > MAX_COLUMNS:
        return {PROBLEM: f"it has more than {MAX_COLUMNS} columns"}
    if not all(isinstance(key, str) and len(key) <= MAX_NAME for key in row):
        return {PROBLEM: f"a column's name is longer than {MAX_NAME} characters"}
    size = seen = 0
    waiting: list[tuple[Any, int]] = [(row, 1)]
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if isinstance(value, str):
            size += len(value)
            if problem := _bad_text(value):
                return {PROBLEM: problem}
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                return {PROBLEM: f"it is nested deeper than {MAX_DEPTH} levels"}
            inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            waiting += [(item, depth + 1) for item in inner]
        if seen + len(waiting) > MAX_VALUES or size > MAX_ROW_BYTES:
            return {PROBLEM: f"it is larger than {MAX_ROW_BYTES:,} characters or {MAX_VALUES:,} values"}
    return row


def row_of(value: Any) -> Row:
    """A value of JSON as a checked row: an object; a list of messages or a text makes a row of that one column."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {"messages": value}
    elif isinstance(value, str):
        value = {"text": value}
    return checked(value)


def _without_nulls(row: Row) -> Row:
    """The row without the null fields that Arrow adds to an object for the sake of other rows' objects."""
    return {name: _filled(value) if isinstance(value, dict | list) else value for name, value in row.items()}


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item) for key, item in value.items() if item is not None}
    return [_filled(item) for item in value] if isinstance(value, list) else value


def row_size(row: Row) -> int:
    """Characters of a row's texts, near enough."""
    return sum(len(value) if isinstance(value, str) else len(str(value)) for value in row.values())


def _bad_text(text: str) -> str:
    if "\0" in text:
        return "it holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it is not UTF-8, or holds half a character"
    return ""
