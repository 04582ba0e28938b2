"""Rows of data with their line numbers: from files of several kinds, from the hub.

A line that cannot be read is handed on as {PROBLEM: reason}, so that all of them can be told at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer.config import DataConfig
from trainer.errors import UserError

Row = dict[str, Any]
PROBLEM = "\0problem"
"""Key of a row that could not be read; no column can have this name."""


def read_file(data: DataConfig, data_dir: Path) -> Iterator[tuple[int, Row]]:
    """Rows of an uploaded file. Raises UserError where it is missing, of no known kind, or broken as a whole."""
    path = data_dir / data.path
    if Path(data.path).name != data.path or not path.is_file():
        raise UserError(f"There is no data file {data.path[:80]!r}.", "Upload it again.", "data")
    readers: dict[str, Callable[[Path], Iterator[tuple[int, Row]]]] = {
        ".jsonl": read_jsonl,
        ".json": _read_json,
        ".csv": _read_table,
        ".tsv": _read_table,
        ".parquet": _read_table,
        ".txt": _read_text,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{data.path} is of no known kind.", f"Use {', '.join(readers)}.", "data")
    return reader(path)


def read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """Rows of a JSONL file."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _parse_row(line)


def _read_json(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is not valid JSON: {str(error)[:120]}.", "Mend that place.", "data") from error
    if not isinstance(value, list):
        raise UserError(f"{path.name} holds no list of examples.", "Write […] around them.", "data")
    for number, row in enumerate(value, 1):
        yield number, row if isinstance(row, dict) else {PROBLEM: "not an object"}


def _parse_row(line: bytes) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return {PROBLEM: "not UTF-8"}
    except (ValueError, RecursionError) as error:
        return {PROBLEM: f"not valid JSON ({str(error)[:60]})"}
    return row if isinstance(row, dict) else {PROBLEM: "not an object"}


def _read_text(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8.", "Save it as UTF-8.", "data") from error
    for number, paragraph in enumerate(filter(str.strip, text.split("\n\n")), 1):
        yield number, {"text": paragraph.strip()}


def _read_table(path: Path) -> Iterator[tuple[int, Row]]:
    import pandas

    try:
        if path.suffix.lower() == ".parquet":
            table = pandas.read_parquet(path)
        else:
            table = pandas.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", keep_default_na=False)
    except Exception as error:
        raise UserError(f"{path.name} cannot be read: {str(error)[:200]}.", "Mend that place.", "data") from error
    for number, row in enumerate(table.to_dict("records"), 1):
        yield number, {str(key): value for key, value in row.items()}


def read_hub(data: DataConfig) -> Iterator[tuple[int, Row]]:
    """Rows of a hub data set. Raises UserError where it cannot be loaded."""
    from datasets import load_dataset

    try:
        rows = load_dataset(data.path, data.subset or None, split=data.split)
    except Exception as error:
        raise UserError(
            f"The data set {data.path} cannot be loaded: {str(error).strip().splitlines()[0][:200]}",
            "Check its name, its configuration and its split, and the network.",
            "data",
        ) from error
    yield from enumerate(rows, 1)
