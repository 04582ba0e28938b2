"""Rows of Parquet, a few at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer.common.errors import UserError
from trainer.data.readers.limits import MAX_COLUMNS, Row, sized

BATCH_BYTES = 4 * 2**20


def parquet_rows(path: Path, name: str, report: Callable[[float], None]) -> Iterator[tuple[int, Row]]:
    """The rows, numbered; `report` is told the share that was read. Raises UserError for a broken file."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(names) > MAX_COLUMNS or len(set(names)) < len(names):
                raise UserError(
                    f"{name} has too many columns, or two of one name.", "Remove or rename columns.", "data"
                )
            count = max(file.metadata.num_rows, 1)
            few = max(16, min(1000, BATCH_BYTES // max(path.stat().st_size // count, 1) // 8))
            batches = (batch.to_pylist(maps_as_pydicts="lossy") for batch in file.iter_batches(batch_size=few))
            rows: Iterator[Any] = itertools.chain.from_iterable(batches)
            for number, row in sized(rows, name):
                report(number / count)
                yield number, row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(
            f"{name} is not a Parquet file that can be read: {reason[0][:120]}.", "Write the file again.", "data"
        ) from error
