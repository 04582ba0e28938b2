"""Rows of data with their line numbers: from files of several kinds, from the hub.

Files are read as streams, one row at a time; `limits.py` says how large rows and files may be. A row that
cannot be read is handed on as {PROBLEM: reason}, so that all of them can be told at once. Nothing in a
file is evaluated.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.config import DataConfig
from trainer.errors import UserError
from trainer.json_rows import json_rows, parse_row
from trainer.limits import MAX_COLUMNS, MAX_ROW_BYTES, PROBLEM, Row, capped, checked, lines, refuse_binary
from trainer.models import HUB_ID

__all__ = ["PROBLEM", "Row", "read_file", "read_hub", "read_jsonl"]

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
Rows = Iterator[tuple[int, Row]]


def read_file(data: DataConfig, data_dir: Path) -> Rows:
    """Rows of an uploaded file. Raises UserError where it is missing, of no known kind, or broken as a whole."""
    path = data_dir / data.path
    if not FILE_NAME.fullmatch(data.path) or not path.is_file() or path.is_symlink():
        raise UserError(f"There is no data file {data.path[:80]!r}.", "Upload it again.", "data")
    readers: dict[str, Callable[[Path], Rows]] = {
        ".jsonl": read_jsonl,
        ".json": json_rows,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".parquet": _read_parquet,
        ".txt": _read_text,
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise UserError(f"{data.path} is of no known kind.", f"Use {', '.join(readers)}.", "data")
    if suffix != ".parquet":
        refuse_binary(path)
    return capped(readers[suffix](path), path.name)


def read_jsonl(path: Path) -> Rows:
    """Rows of a JSONL file."""
    with path.open("rb") as file:
        for number, line in lines(file):
            if line is None or line.strip():
                yield number, parse_row(line)


def _read_text(path: Path) -> Rows:
    """Paragraphs, which empty lines part."""
    with path.open("rb") as file:
        start, size, parts = 1, 0, list[bytes]()
        for number, line in lines(file):
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


def _read_csv(path: Path) -> Rows:
    """Rows of CSV or TSV; quoted fields may go over several lines."""
    csv.field_size_limit(MAX_ROW_BYTES)
    with path.open("rb") as file:
        text = ("\0" if line is None else line.decode("utf-8", "surrogateescape") for _, line in lines(file))
        reader = csv.reader(text, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        header = _header(reader, path.name)
        while True:
            start = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield start, {PROBLEM: f"not valid {path.suffix[1:].upper()} ({str(error)[:60]})"}
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


def _read_parquet(path: Path) -> Rows:
    """Rows of Parquet, a few at a time."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            if len(file.schema_arrow.names) > MAX_COLUMNS or len(set(file.schema_arrow.names)) < len(
                file.schema_arrow.names
            ):
                raise UserError(f"{path.name} has too many columns, or two of one name.", "Mend that.", "data")
            number = 0
            for batch in file.iter_batches(batch_size=16):
                for row in batch.to_pylist():
                    number += 1
                    yield number, checked(row)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(
            f"{path.name} is not a Parquet file that can be read: {reason[0][:120]}.", "Write it anew.", "data"
        ) from error


def read_hub(data: DataConfig) -> Rows:
    """Rows of a hub data set. Raises UserError where it cannot be loaded."""
    from datasets import load_dataset

    _refuse_local(data)
    try:
        rows = load_dataset(data.path, data.subset or None, split=data.split)
    except Exception as error:
        raise UserError(
            f"The data set {data.path} cannot be loaded: {(str(error).strip().splitlines() or [''])[0][:200]}",
            "Check its name, its configuration and its split, and the network.",
            "data",
        ) from error
    yield from capped(((number, checked(row)) for number, row in enumerate(rows, 1)), data.path)


def _refuse_local(data: DataConfig) -> None:
    """`load_dataset` takes paths, and the names of its own file readers, too. Raises UserError for those."""
    if not HUB_ID.fullmatch(data.path) or ".." in data.path:
        raise UserError(f"“{data.path[:100]}” is no data set of the hub.", "Write its id as owner/name.", "data")
    if Path(data.path).exists():
        raise UserError(
            f"A folder “{data.path}” in the working folder hides the hub data set of that name.",
            "Move it away.",
            "data",
        )
