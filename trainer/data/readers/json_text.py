"""JSON read piece by piece, so that a file of any size takes the memory of one row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

from trainer.common.errors import UserError
from trainer.data.readers import limits
from trainer.data.readers.limits import MAX_DEPTH, MAX_ROW_BYTES

PIECE = 65536
_SPACE = re.compile(r"[ \t\r\n]*")
# NaN and the infinities are no JSON, but written by many programs where a value is missing
DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def reason(error: Exception) -> str:
    """Why JSON could not be read, in few words."""
    if isinstance(error, RecursionError):
        return f"nested deeper than {MAX_DEPTH} levels"
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON ({error.msg.removesuffix(' at')[:60]} at character {error.pos + 1})"
    return "not valid JSON (a number with too many digits)"


class JsonText:
    """The part of a JSON file that has been read and not yet used."""

    def __init__(self, file: TextIO, name: str) -> None:
        self._file, self.name = file, name
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

    def items(self) -> Iterator[tuple[int, Any]]:
        """The items of the list that comes next, numbered from 1. Raises UserError where it is broken."""
        self.take("[")
        number, ended = 0, self.take("]")
        while not ended:
            number += 1
            yield number, self.value(f"Example {number}")
            ended = self._next("]", f"Example {number}")

    def names(self) -> Iterator[str]:
        """The names in the object that comes next; the value of each must be read before the next name."""
        self.take("{")
        ended = self.take("}")
        while not ended:
            name = self.value("A name")
            if not isinstance(name, str) or not self.take(":"):
                self.fail("A name", "a colon is missing after it")
            yield name
            ended = self._next("}", f"“{name[:40]}”")

    def _next(self, end: str, what: str) -> bool:
        ended = self.take(end)
        if not ended and not self.take(","):
            self.fail(what, f"a comma or {end} is missing after it")
        return ended

    def value(self, what: str) -> Any:
        """The next value, whole. Raises UserError where it is none, or larger than a row may be."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # it may only be cut off here: a row's worth of text decides
                length = len(self._text) - self._at
                if length > MAX_ROW_BYTES:
                    self.fail(what, f"it is longer than {MAX_ROW_BYTES:,} characters, or {reason(error)}")
                if not self._more():
                    self.fail(what, reason(error))
            except (RecursionError, ValueError) as error:
                self.fail(what, reason(error))
            else:
                if end - self._at > MAX_ROW_BYTES:  # a number may go on for ever
                    self.fail(what, f"it is longer than {MAX_ROW_BYTES:,} characters")
                if end < len(self._text) or not self._more():
                    self._at = end
                    return value

    def fail(self, what: str, problem: str) -> NoReturn:
        raise UserError(f"{what} of {self.name}: {problem}.", "Fix that place.", "data")

    def _more(self) -> bool:
        """Read on. Twice what is left, so that the work stays in proportion to what is read."""
        if self._ended:
            return False
        left = self._text[self._at :]
        try:
            piece = self._file.read(max(PIECE, len(left)))
        except UnicodeDecodeError as error:
            raise UserError(f"{self.name} is not UTF-8.", "Save it as UTF-8.", "data") from error
        self._read += len(piece)
        if self._read > limits.MAX_TEXT_BYTES:
            raise limits.too_large(self.name)
        self._text, self._at, self._ended = left + piece, 0, not piece
        return bool(piece)
