"""Rows of data with their line numbers, from files of several kinds.

Files are read as streams, one row at a time; `limits.py` says how large rows and files may be. A row that
cannot be read is handed on as {PROBLEM: reason}, so that all of them can be told at once. Nothing in a
file is evaluated. What a data set of the hub holds, `hub.py` reads.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from trainer.common.errors import UserError
from trainer.config.schema import DataConfig
from trainer.data.readers.json_rows import json_rows, parse_row
from trainer.data.readers.limits import (
    MAX_COLUMNS,
    MAX_ROW_BYTES,
    PROBLEM,
    Row,
    capped,
    checked,
    lines,
    refuse_binary,
    sized,
)

__all__ = ["PROBLEM", "DataFile", "Row", "find_files", "is_quick_to_read"]

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
PACKED = (".gz", ".zst")
"""Endings of packed files; Parquet packs by itself."""
HEAD = 65536
BATCH_BYTES = 4 * 2**20
QUICK_BYTES = 16 * 2**20
"""Files that take seconds to read and tokenize, so that nobody need ask for it."""
Rows = Iterator[tuple[int, Row]]


@dataclass
class DataFile:
    """One file of examples. `name` is what a person is told of it."""

    path: Path
    name: str
    share: Callable[[], float] = lambda: 0.0
    """How much of the file `rows` has read."""

    @property
    def kind(self) -> str:
        """One of KINDS. Raises UserError for another one."""
        suffixes = [suffix.lower() for suffix in Path(self.name).suffixes]
        packed = suffixes[-1:] and suffixes[-1] in PACKED
        kind = suffixes[-2:-1] if packed else suffixes[-1:]
        if not kind or kind[0] not in KINDS or (packed and kind[0] == ".parquet"):
            known = f"{', '.join(KINDS)}; the text kinds also with .gz or .zst behind"
            raise UserError(f"{self.name} is of an unknown type.", f"Use {known}.", "data")
        return kind[0]

    def digest(self) -> str:
        """SHA-256 of what is in the file."""
        found = self.path.stat()
        return _digest(self.path, found.st_size, found.st_mtime_ns)

    def rows(self) -> Rows:
        """The rows. Raises UserError where the file is of no known kind, or broken as a whole."""
        kind = self.kind
        if kind == ".parquet":
            return capped(self._parquet_rows(), self.name)
        return capped(self._text_rows(kind), self.name)

    def _text_rows(self, kind: str) -> Rows:
        try:
            with self.path.open("rb") as raw, _unpacked(raw, self.name) as file:
                size = max(self.path.stat().st_size, 1)
                self.share = lambda: raw.tell() / size if not raw.closed else 1.0
                head = file.peek(HEAD)
                refuse_binary(head[:HEAD], self.name)
                if kind == ".json" and _is_jsonl(head):
                    kind = ".jsonl"
                yield from _READERS[kind](file, self.name)
        except (zstandard.ZstdError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(
                f"{self.name} cannot be unpacked: it is damaged or cut off.", "Pack and upload it again.", "data"
            ) from error

    def _parquet_rows(self) -> Rows:
        """Rows of Parquet, a few at a time."""
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self.path) as file:
                names = file.schema_arrow.names
                if len(names) > MAX_COLUMNS or len(set(names)) < len(names):
                    raise UserError(
                        f"{self.name} has too many columns, or two of one name.", "Remove or rename columns.", "data"
                    )
                count = max(file.metadata.num_rows, 1)
                few = max(16, min(1000, BATCH_BYTES // max(self.path.stat().st_size // count, 1) // 8))
                batches = (batch.to_pylist() for batch in file.iter_batches(batch_size=few))
                for number, row in sized(itertools.chain.from_iterable(batches), self.name):
                    self.share = lambda done=number: done / count  # type: ignore[misc]
                    yield number, row
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise UserError(
                f"{self.name} is not a Parquet file that can be read: {reason[0][:120]}.",
                "Write the file again.",
                "data",
            ) from error


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


def _unpacked(raw: BinaryIO, name: str) -> io.BufferedReader:
    """The file's text, unpacked where its name says that it is packed."""
    if name.lower().endswith(".gz"):
        raw = cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    elif name.lower().endswith(".zst"):
        raw = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(raw, read_across_frames=True)
    return io.BufferedReader(cast(io.RawIOBase, raw), 2**20)


def _is_jsonl(head: bytes) -> bool:
    """Whether a .json file holds one object a line: many programs name them so."""
    first, _, rest = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    return first.startswith(b"{") and first.rstrip().endswith(b"}") and rest.lstrip().startswith(b"{")


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


def _read_csv(file: BinaryIO, name: str) -> Rows:
    """Rows of CSV; quoted fields may go over several lines. Semicolons part the fields where no comma does."""
    text = _csv_lines(file, name)
    first = next(text, "")
    delimiter = ";" if "," not in first and ";" in first else ","
    return _read_table(itertools.chain([first], text), name, delimiter)


def _read_tsv(file: BinaryIO, name: str) -> Rows:
    return _read_table(_csv_lines(file, name), name, "\t")


def _csv_lines(file: BinaryIO, name: str) -> Iterator[str]:
    return ("\0" if line is None else line.decode("utf-8", "surrogateescape") for _, line in lines(file, name))


def _read_table(text: Iterator[str], name: str, delimiter: str) -> Rows:
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    header = _header(reader, name)
    kind = "TSV" if delimiter == "\t" else "CSV"
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, {PROBLEM: f"not valid {kind} ({str(error)[:60]})"}
            continue
        if fields:
            yield start, _table_row(header, fields)


def _header(reader: Iterator[list[str]], name: str) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise UserError(
            f"The first line of {name} cannot be read: {error}.", "Name the columns there.", "data"
        ) from error
    if len(header) > MAX_COLUMNS or len(set(header)) < len(header) or PROBLEM in checked(dict.fromkeys(header, "")):
        raise UserError(
            f"The first line of {name} names no usable columns.",
            f"Name at most {MAX_COLUMNS} columns there, each once, in UTF-8.",
            "data",
        )
    return header


def _table_row(header: list[str], fields: list[str]) -> Row:
    if any("\0" in field for field in fields):
        return {PROBLEM: f"it holds a NUL character, or a line longer than {MAX_ROW_BYTES:,} bytes"}
    if len(fields) != len(header):
        return {PROBLEM: f"it has {len(fields)} fields, and the first line names {len(header)}"}
    return checked(dict(zip(header, fields, strict=True)))


_READERS = {
    ".jsonl": _read_jsonl,
    ".json": json_rows,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_text,
}
