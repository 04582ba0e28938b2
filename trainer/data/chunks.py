"""Plain text longer than the maximum length in chunks of it: all of it trains, nothing is cut off.

Chunks do not overlap. A document begins with BOS and ends with EOS, so that its borders stay known; its chunks are
about equally long, for a last one of a token or two would teach nothing. They are views of tokens.arrow, not copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.data.tokenization import Tokens


@dataclass(frozen=True)
class ChunkedTokens(Tokens):
    """Tokens whose documents are split; everything else is as in `Tokens`, one row for each chunk."""

    table: Any
    """A pyarrow.Table with the columns of `tokenization.SCHEMA`."""

    def dataset(self) -> Any:
        """A memory-mapped `datasets.Dataset` with the columns of SCHEMA."""
        from datasets import Dataset
        from datasets.table import InMemoryTable

        return Dataset(InMemoryTable(self.table))

    def column(self, name: str) -> np.ndarray:
        """One of the columns of single numbers."""
        return np.asarray(self.table.column(name))


def chunked(tokens: Tokens, max_length: int) -> Tokens:
    """The tokens with every document of more than `max_length` tokens in chunks; unchanged where there is none."""
    if not np.any(tokens.column("document") & (tokens.column("length") > max_length)):
        return tokens
    table = tokens.dataset().data
    batches = [_split(batch, max_length) for batch in table.to_batches()]
    return ChunkedTokens(tokens.folder, tokens.account, pa.Table.from_batches(batches))


def _split(batch: pa.RecordBatch, max_length: int) -> pa.RecordBatch:
    lengths = np.asarray(batch.column("length"), np.int64)
    documents = batch.column("document").to_numpy(zero_copy_only=False)
    pieces = np.where(documents, np.maximum(-(-lengths // max_length), 1), 1)
    source = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(source)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = number * lengths[source] // pieces[source]
    size = (number + 1) * lengths[source] // pieces[source] - start
    ids, counts = batch.column("input_ids"), batch.column("counts")
    offsets = np.append(np.asarray(ids.offsets, np.int64)[source] + start, ids.offsets[-1].as_py()).astype(np.int32)
    is_piece = pieces[source] > 1
    first = np.where(is_piece, 1, np.asarray(batch.column("first"))[source])
    last = np.where(is_piece, size, np.asarray(batch.column("last"))[source])
    columns = {
        "row": pa.array(np.asarray(batch.column("row"))[source], pa.int64()),
        "input_ids": pa.ListArray.from_arrays(pa.array(offsets), ids.values),
        "counts": pa.ListArray.from_arrays(pa.array(offsets), counts.values),
        "length": pa.array(size, pa.int32()),
        "first": pa.array(first, pa.int32()),
        "last": pa.array(last, pa.int32()),
        "document": pa.array(documents[source]),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in batch.schema.names], schema=batch.schema)
