"""Rows of JSON: one line of JSONL, or the items of one long list, read piece by piece.

Our own: `datasets` and pyarrow guess one schema for all rows and stop at the first bad one; here every bad row gets
its line number and its reason, and the rest is kept.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn, TextIO

import orjson

from trainer.common.errors import UserError
from trainer.data.readers import limits
from trainer.data.readers.limits import MAX_COLUMNS, MAX_DEPTH, MAX_NAME, MAX_ROW_BYTES, PROBLEM, Row, checked

PIECE = 65536
SHORT = 16384
"""Bytes of a line that cannot hold more values than a row may have."""
_SPACE = re.compile(r"[ \t\r\n]*")
# NaN and the infinities are no JSON, but written by many programs where a value is missing
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def parse_row(line: bytes | None) -> Row:
    """One line of JSONL; None stands for one that was too long."""
    if line is None:
        return {PROBLEM: f"longer than {MAX_ROW_BYTES:,} bytes"}
    row = _plain_row(line)
    if row is not None:
        return row
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return {PROBLEM: "not UTF-8"}
    try:
        return checked(_DECODER.decode(text))
    except (ValueError, RecursionError) as error:
        return {PROBLEM: reason(error)}


def _plain_row(line: bytes) -> Row | None:
    """The row of a line of which a glance shows that nothing is wrong with it; None where a closer look is due.

    orjson takes no bad UTF-8 and no half characters, a short line holds few values, and few brackets cannot be
    nested deep: what is left to check are NUL characters and the columns' names.
    """
    if len(line) > SHORT or b"\\u0000" in line or line.count(b"{") + line.count(b"[") > MAX_DEPTH:
        return None
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if type(row) is not dict or len(row) > MAX_COLUMNS or max(map(len, row), default=0) > MAX_NAME:
        return None
    return row


def reason(error: Exception) -> str:
    """Why JSON could not be read, in few words."""
    if isinstance(error, RecursionError):
        return f"nested deeper than {MAX_DEPTH} levels"
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON ({error.msg.removesuffix(' at')[:60]} at character {error.pos + 1})"
    return "not valid JSON (a number with too many digits)"


def json_rows(file: BinaryIO, name: str) -> Iterator[tuple[int, Row]]:
    """The items of a file that is one list, with their numbers. Raises UserError where the list is broken."""
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        buffer = _Buffer(text, name)
        if not buffer.take("["):
            raise UserError(f"{name} does not hold a list of examples.", "Write […] around them.", "data")
        number, ended = 0, buffer.take("]")
        while not ended:
            number += 1
            yield number, checked(buffer.value(number))
            ended = buffer.take("]")
            if not ended and not buffer.take(","):
                buffer.fail(number, "a comma or ] is missing after it")
        if buffer.peek():
            buffer.fail(number, "something follows after the list")


class _Buffer:
    """The part of a JSON file that has been read and not yet used."""

    def __init__(self, file: TextIO, name: str) -> None:
        self._file, self._name = file, name
        self._text, self._at, self._ended = "", 0, False
        self._read = 0

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, character: str) -> bool:
        """Go past `character` if it comes next."""
        found = self.peek() == character
        self._at += found
        return found

    def value(self, number: int) -> Any:
        """The next value, whole. Raises UserError where it is none, or larger than a row may be."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # it may only be cut off here: a row's worth of text decides
                length = len(self._text) - self._at
                if length > MAX_ROW_BYTES:
                    self.fail(number, f"it is longer than {MAX_ROW_BYTES:,} characters, or {reason(error)}")
                if not self._more():
                    self.fail(number, reason(error))
            except (RecursionError, ValueError) as error:
                self.fail(number, reason(error))
            else:
                if end < len(self._text) or not self._more():
                    self._at = end
                    return value

    def fail(self, number: int, problem: str) -> NoReturn:
        raise UserError(f"Example {number} of {self._name}: {problem}.", "Fix that place.", "data")

    def _more(self) -> bool:
        """Read on. Twice what is left, so that the work stays in proportion to what is read."""
        if self._ended:
            return False
        left = self._text[self._at :]
        try:
            piece = self._file.read(max(PIECE, len(left)))
        except UnicodeDecodeError as error:
            raise UserError(f"{self._name} is not UTF-8.", "Save it as UTF-8.", "data") from error
        self._read += len(piece)
        if self._read > limits.MAX_TEXT_BYTES:
            raise limits.too_large(self._name)
        self._text, self._at, self._ended = left + piece, 0, not piece
        return bool(piece)
