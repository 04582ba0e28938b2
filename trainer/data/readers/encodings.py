"""Text files as UTF-8 bytes, whatever they are packed with and written in."""

from __future__ import annotations

import gzip
import io
import re
from typing import BinaryIO, cast

import zstandard

PACKED = (".gz", ".zst")
"""Endings of packed files; Parquet packs by itself."""
SCANNED_BYTES = 64 * 2**20
"""So much of a file is looked at to tell its encoding."""
_NOT_IN_WINDOWS = frozenset(b"\x81\x8d\x8f\x90\x9d")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def unpacked(raw: BinaryIO, name: str) -> io.BufferedReader:
    """The file's bytes, unpacked where its name says that it is packed."""
    if name.lower().endswith(".gz"):
        raw = cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    elif name.lower().endswith(".zst"):
        raw = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(raw, read_across_frames=True)
    return io.BufferedReader(cast(io.RawIOBase, raw), 2**20)


def encoding_of(file: io.BufferedReader, is_table: bool) -> tuple[str, str]:
    """utf-8, utf-16, and for tables and plain text also cp1252 or latin-1, with a few words that show it.

    Reads into `file`. An 8-bit encoding is assumed where more lines are not UTF-8 than use characters beyond ASCII
    correctly: a few damaged lines of a UTF-8 file stay what they are, damaged.
    """
    if file.peek(2)[:2] in _UTF16_MARKS:
        return "utf-16", ""
    if not is_table:
        return "utf-8", ""
    total = valid = invalid = 0
    seen = set[int]()
    sample = b""
    while total < SCANNED_BYTES and (block := file.read(2**18) + file.readline(2**18)):
        total += len(block)
        for line in () if block.isascii() else block.splitlines():
            if line.isascii():
                continue
            try:
                line.decode()
                valid += 1
            except UnicodeDecodeError:
                invalid += 1
                seen.update(line)
                sample = sample or _words(line)
    if invalid <= valid:
        return "utf-8", ""
    encoding = "latin-1" if seen & _NOT_IN_WINDOWS else "cp1252"
    return encoding, sample.decode(encoding)


def _words(line: bytes) -> bytes:
    """The words around the first character beyond ASCII."""
    found = re.search(rb"[^\s,;|\x00-\x1f]{0,20}[\x80-\xff][^,;|\x00-\x1f]{0,20}", line)
    return found[0] if found else b""


def as_utf8(file: io.BufferedReader, encoding: str) -> io.BufferedReader:
    """The text of `file` as UTF-8. Reading raises UnicodeDecodeError where it is not in `encoding`."""
    return file if encoding == "utf-8" else io.BufferedReader(_Recoded(file, encoding), 2**16)


class _Recoded(io.RawIOBase):
    """The bytes of a text file in UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._text = io.TextIOWrapper(file, encoding=encoding, newline="")
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        if not self._left:
            self._left = self._text.read(2**15).encode()
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
