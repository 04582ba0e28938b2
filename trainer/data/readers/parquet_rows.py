"""Rows of Parquet, a few at a time. A small file that unfolds to gigabytes is refused before it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer.common.errors import UserError
from trainer.data.readers import limits
from trainer.data.readers.limits import MAX_COLUMNS, MAX_ROW_BYTES, MAX_VALUES, PROBLEM, Row, sized

BATCH_BYTES = 4 * 2**20
LARGE = 2 * BATCH_BYTES
FIRST_ROWS = 16
UNFOLDED_BYTES, UNFOLDED_TIMES = 512 * 2**20, 1000
"""Text that any file may hold, and how many times its own size a larger one may."""


def parquet_rows(path: Path, name: str, report: Callable[[float], None]) -> Iterator[tuple[int, Row]]:
    """The rows, numbered; `report` is told the share that was read. Raises UserError for a broken file."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check(file.schema_arrow.names, file.metadata, name)
            count = max(file.metadata.num_rows, 1)
            most = UNFOLDED_BYTES + UNFOLDED_TIMES * path.stat().st_size
            for number, row in sized(_unfolded(file), name, min(most, limits.MAX_TEXT_BYTES)):
                report(number / count)
                yield number, row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(
            f"{name} is not a Parquet file that can be read: {reason[0][:120]}.", "Write the file again.", "data"
        ) from error


def _check(names: list[str], metadata: Any, name: str) -> None:
    """Raises UserError for what no row can be made of."""
    if len(names) > MAX_COLUMNS or len(set(names)) < len(names):
        raise UserError(f"{name} has too many columns, or two of one name.", "Remove or rename columns.", "data")
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            if column.num_values > MAX_VALUES * max(group.num_rows, 1):
                raise UserError(
                    f"{name} has rows with more than {MAX_VALUES:,} values in {column.path_in_schema[:80]}.",
                    "Leave that column out.",
                    "data",
                )


def _unfolded(file: Any) -> Iterator[Row]:
    """The rows as Python's objects; a row that is too large stays folded."""
    first = next(file.iter_batches(batch_size=FIRST_ROWS), None)
    size = _decoded(first).nbytes // max(first.num_rows, 1) if first is not None else 0
    for batch in file.iter_batches(batch_size=max(1, min(1000, BATCH_BYTES // max(size, 1)))):
        yield from _rows_of(batch, 1000)


def _rows_of(batch: Any, most: int) -> Iterator[Row]:
    """The rows of a batch, `most` at once; fewer where they are large."""
    for start in range(0, batch.num_rows, most):
        part = batch.slice(start, most)
        if most <= FIRST_ROWS or part.nbytes <= LARGE:  # a dictionary counts in full before it is decoded
            part = _decoded(part)
        if most > 1 and part.nbytes > LARGE:
            yield from _rows_of(part, FIRST_ROWS if most > FIRST_ROWS else 1)
        elif part.nbytes > LARGE:
            yield {PROBLEM: f"it is larger than {MAX_ROW_BYTES:,} characters or {MAX_VALUES:,} values"}
        else:
            yield from part.to_pylist(maps_as_pydicts="lossy")


def _decoded(batch: Any) -> Any:
    """The batch with its values in place of numbers of values: its size is then that of its rows."""
    import pyarrow

    columns = [
        column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    return pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)
