"""Rows of Parquet, a few at a time. A small file that unfolds to gigabytes is refused before it does.

What the file says of itself is judged first; since that may be a lie, decoding has a memory limit, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer.common import formatting
from trainer.common.errors import UserError, first_line
from trainer.common.work_limits import Exceeded, limited
from trainer.data.readers import limits
from trainer.data.readers.limits import MAX_COLUMNS, MAX_ROW_BYTES, MAX_VALUES, PROBLEM, Row, sized

BATCH_BYTES = 4 * 2**20
LARGE = 2 * BATCH_BYTES
LARGE_VALUES = 10 * MAX_VALUES
"""Values that are made Python's at once."""
FIRST_ROWS, MOST_ROWS = 16, 1000
DECODING_BYTES = 1_000_000_000
"""Memory for opening a file, and for decoding one batch."""
UNFOLDED_BYTES, UNFOLDED_TIMES = 512 * 2**20, 1000
"""Text that any file may hold, and how many times its own size a larger one may."""
MAX_CHUNKS = 1_000_000
"""Columns of all row groups: each is looked at before the first row is read."""
Report = Callable[[float], None]


def parquet_rows(path: Path, name: str, report: Report) -> Iterator[tuple[int, Row]]:
    """The rows, numbered; `report` gets the share that was read. Raises UserError for a broken file."""
    import pyarrow

    try:
        yield from _rows(path, name, report)
    except Exceeded as error:
        problem = f"{name} takes more than {formatting.size(DECODING_BYTES)} to decode a few rows."
        raise UserError(problem, "Write it with smaller pages, or use a part of it.", "data") from error
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{name} is not a Parquet file that can be read: {first_line(error)[:120].rstrip('.')}.",
            "Write the file again.",
            "data",
        ) from error


def _rows(path: Path, name: str, report: Report) -> Iterator[tuple[int, Row]]:
    import pyarrow
    from pyarrow import parquet

    pyarrow.allocate_buffer(1)  # what Arrow sets aside for itself at first is not the file's doing
    # a column of a row group is read through a buffer, not whole
    opened = limited(lambda: parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False), DECODING_BYTES)
    with opened as file:
        _check(file.schema_arrow.names, file.metadata, name)
        count = max(file.metadata.num_rows, 1)
        most = min(UNFOLDED_BYTES + UNFOLDED_TIMES * path.stat().st_size, limits.MAX_TEXT_BYTES)
        for number, row in sized(_unfolded(file, name, most), name):
            report(number / count)
            yield number, row


def _check(names: list[str], metadata: Any, name: str) -> None:
    """Raises UserError for what no row can be made of, according to the file itself."""
    if len(names) > MAX_COLUMNS or len(set(names)) < len(names) or PROBLEM in names:
        raise UserError(f"{name} has too many columns, or two of one name.", "Remove or rename columns.", "data")
    if metadata.num_rows > limits.MAX_ROWS:
        raise limits.too_large(name)
    if metadata.num_columns > MAX_VALUES // 2:  # with its name, each is two values of a row
        raise UserError(f"{name} has {metadata.num_columns:,} nested columns.", "Leave some out.", "data")
    if metadata.num_row_groups * metadata.num_columns > MAX_CHUNKS:
        problem = f"{name} has {metadata.num_row_groups:,} row groups of {metadata.num_columns:,} columns each."
        raise UserError(problem, "Write it with fewer row groups, or without columns that are not used.", "data")
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            if column.num_values > MAX_VALUES * max(group.num_rows, 1):
                raise UserError(
                    f"{name} has rows with more than {MAX_VALUES:,} values in {column.path_in_schema[:80]}.",
                    "Leave that column out.",
                    "data",
                )


def _unfolded(file: Any, name: str, most: int) -> Iterator[Row]:
    """The rows as Python's objects; a row that is too large stays folded.

    Raises UserError where they are more than `most` bytes.
    """
    total = 0
    for groups in _spans(file.metadata):
        count, done, ended = _batch_rows(file, groups), 0, False
        while not ended:
            try:
                for batch in _batches(file, groups, count, done):
                    done += batch.num_rows
                    total += _cost(batch)[1]
                    if total > most:
                        problem = f"{name} unfolds to far more than its own size: {formatting.size(most)} of text."
                        raise UserError(problem, "Use a part of it.", "data")
                    yield from _rows_of(batch, batch.num_rows)
                ended = True
            except Exceeded:  # some rows are much larger than the first ones
                if count == 1:
                    raise
                count = max(1, count // FIRST_ROWS)


def _spans(metadata: Any) -> Iterator[list[int]]:
    """Numbers of row groups that are read in one go: one, or small ones together."""
    span, rows = list[int](), 0
    for number in range(metadata.num_row_groups):
        span, rows = [*span, number], rows + metadata.row_group(number).num_rows
        if rows >= MOST_ROWS or len(span) == MOST_ROWS:
            yield span
            span, rows = [], 0
    if span:
        yield span


def _batch_rows(file: Any, groups: list[int]) -> int:
    """How many rows of these row groups are decoded at once."""
    known = [file.metadata.row_group(number) for number in groups]
    rows = max(sum(group.num_rows for group in known), 1)
    try:
        first = next(_batches(file, groups, FIRST_ROWS), None)
    except Exceeded:
        return 1
    size: int = max(sum(group.total_byte_size for group in known) // rows, 1)
    if first is not None:
        size = max(size, _cost(first)[1] // first.num_rows)
    by_values: int = LARGE_VALUES // max(file.metadata.num_columns, 1)
    return max(1, min(MOST_ROWS, BATCH_BYTES // size, by_values))


def _batches(file: Any, groups: list[int], most: int, start: int = 0) -> Iterator[Any]:
    """Batches of at most `most` rows of these row groups, from row `start` on. Raises Exceeded."""
    batches = file.iter_batches(batch_size=most, row_groups=groups, use_threads=False)
    while (batch := limited(lambda: next(batches, None), DECODING_BYTES)) is not None:
        skipped = min(start, batch.num_rows)
        start -= skipped
        if skipped < batch.num_rows:
            yield batch.slice(skipped)


def _rows_of(batch: Any, most: int) -> Iterator[Row]:
    """The rows of a batch, `most` at once; fewer where they are large."""
    for start in range(0, batch.num_rows, most):
        part = batch.slice(start, most)
        values, size = _cost(part)
        if size <= LARGE and values <= (LARGE_VALUES if most > 1 else MAX_VALUES):
            yield from part.to_pylist(maps_as_pydicts="lossy")
        elif most > 1:
            yield from _rows_of(part, FIRST_ROWS if most > FIRST_ROWS else 1)
        else:
            yield {PROBLEM: f"it is larger than {MAX_ROW_BYTES:,} characters or {MAX_VALUES:,} values"}


def _cost(array: Any) -> tuple[int, int]:
    """How many values Python would make of an array or a batch, and their bytes."""
    from pyarrow import compute, types

    kind = getattr(array, "type", None)
    if kind is None:
        inner = array.columns
    elif types.is_struct(kind):
        inner = array.flatten()
    elif types.is_nested(kind):  # lists of all sorts, and maps
        inner = [array.flatten()]
    elif types.is_dictionary(kind):  # each of its numbers becomes the whole value
        sizes = compute.binary_length(array.dictionary.cast("large_binary"))
        return len(array), 8 * len(array) + (compute.sum(compute.take(sizes, array.indices)).as_py() or 0)
    else:
        return len(array), max(array.nbytes, len(array))
    costs = [_cost(item) for item in inner]
    own = len(array) if kind is not None else 0
    return own + sum(values for values, _ in costs), own + sum(size for _, size in costs)
