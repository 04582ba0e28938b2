"""Rows of tables in text: commas, tabs, semicolons or pipes between the fields, column names in the first line."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from typing import BinaryIO

from trainer.common.errors import UserError
from trainer.data.readers.limits import MAX_COLUMNS, MAX_ROW_BYTES, PROBLEM, Row, checked, lines

DELIMITERS = ",\t;|"
NONE = "\x1f"
"""Parts the fields of a table with a single column, where it stands nowhere."""
SAMPLE_LINES, SAMPLE_CHARS = 50, 200_000


def csv_rows(file: BinaryIO, name: str) -> Iterator[tuple[int, Row]]:
    """The rows with their line numbers; quoted fields may span lines. Raises UserError for an unusable header."""
    csv.field_size_limit(MAX_ROW_BYTES)
    text = _lines(file, name)
    sample = _sample(text)
    skipped, delimiter = 0, ""
    if sample and (first := sample[0].rstrip("\r\n").strip('"').lower()).startswith("sep="):
        skipped, delimiter = 1, first[4:5] or "\t"  # what Excel writes and reads
    sample = sample[skipped:]
    delimiter = delimiter or _delimiter(sample)
    reader = csv.reader(itertools.chain(sample, text), delimiter=delimiter, strict=True)
    header = _header(reader, name)
    while True:
        start = reader.line_num + 1 + skipped
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            kind = "TSV" if delimiter == "\t" else "CSV"
            yield start, {PROBLEM: f"not valid {kind} ({str(error)[:60]})"}
            continue
        if fields:
            yield start, _row(header, fields)


def _lines(file: BinaryIO, name: str) -> Iterator[str]:
    return ("\0" if line is None else line.decode("utf-8", "surrogateescape") for _, line in lines(file, name))


def _sample(text: Iterator[str]) -> list[str]:
    found: list[str] = []
    for line in text:
        found.append(line)
        if len(found) == SAMPLE_LINES or sum(map(len, found)) > SAMPLE_CHARS:
            break
    return found


def _delimiter(sample: list[str]) -> str:
    """The delimiter with which most of the sample's rows have as many fields as the header, two at least; NONE where
    none divides the header."""

    def fitting(delimiter: str) -> tuple[int, int]:
        try:
            rows = list(csv.reader(sample, delimiter=delimiter))
        except csv.Error:
            return 0, 0
        width = len(rows[0]) if rows else 0
        return (sum(len(row) == width for row in rows), width) if width > 1 else (0, 0)

    best = max(DELIMITERS, key=fitting)  # the first of equals
    return best if fitting(best)[1] else NONE


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


def _row(header: list[str], fields: list[str]) -> Row:
    if any("\0" in field for field in fields):
        return {PROBLEM: f"it holds a NUL character, or a line longer than {MAX_ROW_BYTES:,} bytes"}
    if len(fields) != len(header):
        return {PROBLEM: f"it has {len(fields)} fields, and the first line names {len(header)}"}
    return checked(dict(zip(header, fields, strict=True)))
