"""Rows of data with their line numbers, from files of several kinds.

Files are read as streams, one row at a time; `limits.py` says how large rows and files may be. A row that
cannot be read is handed on as {PROBLEM: reason}, so that all of them can be reported at once. No code in a
file is run. Data sets of the hub are read by `hub_datasets.py`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import zstandard

from trainer.common.errors import Issue, UserError
from trainer.config.schema import DataConfig
from trainer.data.readers.csv_rows import csv_rows
from trainer.data.readers.encodings import PACKED, as_utf8, encoding_of, unpacked
from trainer.data.readers.json_file import JsonFile
from trainer.data.readers.json_lines import parse_row
from trainer.data.readers.limits import MAX_ROW_BYTES, PROBLEM, Row, capped, checked, lines, refuse_binary
from trainer.data.readers.parquet_rows import parquet_rows

__all__ = ["PROBLEM", "DataFile", "Row", "find_files", "is_quick_to_read"]

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
HEAD = 65536
QUICK_BYTES = 16 * 2**20
"""Files that take seconds to read and tokenize, so that nobody need ask for it."""
Rows = Iterator[tuple[int, Row]]


@dataclass
class DataFile:
    """One file of examples. `name` is what people call it."""

    path: Path
    name: str
    share: Callable[[], float] = lambda: 0.0
    """How much of the file `rows` has read."""
    notes: list[str] = field(default_factory=list)
    """Where in the file `rows` found them, in sentences."""
    warnings: list[Issue] = field(default_factory=list)
    """What `rows` assumed and may be wrong about."""

    @property
    def kind(self) -> str:
        """One of KINDS. Raises UserError for another one."""
        suffixes = [suffix.lower() for suffix in Path(self.name).suffixes]
        packed = suffixes[-1:] and suffixes[-1] in PACKED
        kind = suffixes[-2:-1] if packed else suffixes[-1:]
        if not kind or kind[0] not in KINDS or (packed and kind[0] == ".parquet"):
            known = f"{', '.join(KINDS)}; the text formats also with .gz or .zst at the end"
            raise UserError(f"{self.name} is of an unknown type.", f"Use {known}.", "data")
        return kind[0]

    def digest(self) -> str:
        """SHA-256 of what is in the file."""
        found = self.path.stat()
        return _digest(self.path, found.st_size, found.st_mtime_ns)

    def rows(self) -> Rows:
        """The rows. Raises UserError if the file is of an unknown kind or damaged."""
        kind = self.kind
        if kind == ".parquet":
            return capped(parquet_rows(self.path, self.name, self._report), self.name)
        return capped(self._text_rows(kind), self.name)

    def _text_rows(self, kind: str) -> Rows:
        try:
            with self._opened(kind) as file:
                head = file.peek(HEAD)[:HEAD]
                refuse_binary(head, self.name)
                kind = _real_kind(kind, head)
                if kind != ".json":
                    yield from _READERS[kind](file, self.name)
            if kind == ".json":
                yield from JsonFile(lambda: self._opened(kind), self.name, self.notes).rows()
        except (zstandard.ZstdError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(
                f"{self.name} cannot be unpacked: it is damaged or cut off.", "Pack and upload it again.", "data"
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f"{self.name} is not {error.encoding}.", "Save it as UTF-8.", "data") from error

    @contextlib.contextmanager
    def _opened(self, kind: str) -> Iterator[io.BufferedReader]:
        """The file's text as UTF-8."""
        encoding = self._encoding(kind)
        with self.path.open("rb") as raw, unpacked(raw, self.name) as file:
            size = max(self.path.stat().st_size, 1)
            self.share = lambda: raw.tell() / size if not raw.closed else 1.0
            yield as_utf8(file, encoding)

    def _encoding(self, kind: str) -> str:
        with self.path.open("rb") as raw, unpacked(raw, self.name) as file:
            encoding, sample = encoding_of(file, kind in (".csv", ".tsv", ".txt"))
        if sample and not self.warnings:
            self.warnings.append(
                Issue(
                    "data",
                    f"{self.name} is not UTF-8 and was read as {encoding}, such as “{sample}”.",
                    "Save it as UTF-8 if letters look wrong there.",
                )
            )
        return encoding

    def _report(self, share: float) -> None:
        self.share = lambda: share


def find_files(names: str, data_dir: Path) -> tuple[DataFile, ...]:
    """The uploaded files that `data.path` names. Raises UserError where one is missing."""
    found = []
    for name in names.split() or [names]:
        path = data_dir / name
        if not FILE_NAME.fullmatch(name) or not path.is_file() or path.is_symlink():
            raise UserError(f"There is no data file {name[:80]!r}.", "Upload it again.", "data")
        found.append(DataFile(path, name))
    return tuple(found)


def is_quick_to_read(data: DataConfig, data_dir: Path) -> bool:
    """Whether these data are read in seconds: small files, or the bundled ones."""
    if data.source != "file":
        return data.source == "demo"
    try:
        files = find_files(f"{data.path} {data.held_out}", data_dir)
    except UserError:
        return False
    return sum(file.path.stat().st_size for file in files) <= QUICK_BYTES


@lru_cache(64)
def _digest(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _real_kind(kind: str, head: bytes) -> str:
    """What a .json or .jsonl file really is, by its beginning: many programs call the one like the other."""
    if kind not in (".json", ".jsonl"):
        return kind
    first, _, rest = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    first, rest = first.rstrip(), rest.lstrip()
    if kind == ".json":
        return ".jsonl" if first[:1] == b"{" and first[-1:] == b"}" and rest[:1] == b"{" else kind
    is_list = first[:1] == b"[" and rest[:1] != b"[" and (b"{" in head[:64] or not rest)
    return ".json" if is_list or first == b"{" else kind


def _read_jsonl(file: BinaryIO, name: str) -> Rows:
    for number, line in lines(file, name):
        if line is None or not line.isspace():
            yield number, parse_row(line)


def _read_text(file: BinaryIO, name: str) -> Rows:
    """Paragraphs, which empty lines part."""
    start, size, parts = 1, 0, list[bytes]()
    for number, line in lines(file, name):
        if line is not None and not line.strip():
            if parts:
                yield start, _paragraph(parts, size)
            size, parts = 0, []
            continue
        start = start if parts else number
        size += MAX_ROW_BYTES + 1 if line is None else len(line)
        parts.append(b"" if line is None or size > MAX_ROW_BYTES else line)
    if parts:
        yield start, _paragraph(parts, size)


def _paragraph(parts: list[bytes], size: int) -> Row:
    if size > MAX_ROW_BYTES:
        return {PROBLEM: f"the paragraph is longer than {MAX_ROW_BYTES:,} bytes"}
    return checked({"text": b"".join(parts).decode("utf-8", "surrogateescape").strip()})


_READERS: dict[str, Callable[[BinaryIO, str], Rows]] = {
    ".jsonl": _read_jsonl,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".txt": _read_text,
}
