"""How large rows and files of data may be, and what makes a row unusable whatever it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import UserError

Row = dict[str, Any]
PROBLEM = "\0problem"
"""Key of a row that could not be read; no column can have this name."""

MAX_ROW_BYTES = 1_000_000
MAX_ROWS = 1_000_000
MAX_BAD = 10_000
"""Rows that cannot be read; a file with more is of another kind than it says."""
MAX_TEXT_BYTES = 4 * 2**30
"""All rows of a file together, once unpacked."""
MAX_COLUMNS = 256
MAX_NAME = 100
MAX_DEPTH = 16
MAX_VALUES = 20_000
"""Single values in one row."""


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers, without a byte order mark; None for one that is longer than a row may be."""
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) <= MAX_ROW_BYTES or line.endswith(b"\n"):
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(65536)
        yield number, None


def refuse_binary(path: Path) -> None:
    """Raises UserError for a file that is no text in UTF-8: UTF-16, archives, pictures."""
    with path.open("rb") as file:
        head = file.read(65536)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path.name} is UTF-16.", "Save it as UTF-8.", "data")
    if b"\0" in head or head.startswith((b"\x1f\x8b", b"PK\x03\x04", b"PAR1")):
        raise UserError(f"{path.name} is not a text file.", "Save it as text in UTF-8, unpacked.", "data")


def capped(rows: Iterator[tuple[int, Row]], name: str) -> Iterator[tuple[int, Row]]:
    """The rows. Raises UserError where there are too many, too much in all, or too many that cannot be read."""
    total = bad = 0
    for count, (number, row) in enumerate(rows, 1):
        total += row_size(row)
        bad += PROBLEM in row
        if bad > MAX_BAD:
            raise UserError(
                f"More than {MAX_BAD:,} rows of {name} cannot be read, such as line {number}: {row[PROBLEM]}.",
                "See whether the file is of the kind that its name says.",
                "data",
            )
        if count > MAX_ROWS or total > MAX_TEXT_BYTES:
            raise UserError(
                f"{name} has more than {MAX_ROWS:,} rows, or more than {MAX_TEXT_BYTES >> 20:,} MiB of text.",
                "Take a part of it.",
                "data",
            )
        yield number, row


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
