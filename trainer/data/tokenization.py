"""Examples as tokens, once for all lengths: tokens.arrow holds them whole, what is cut is cut when they are read.

Rendering and tokenizing take turns in two threads: the tokenizer works outside of Python's lock.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from trainer.common import disk_cache
from trainer.common.progress import Progress
from trainer.config.schema import DataConfig
from trainer.data.checking import BATCH, CheckedData, RejectedRow
from trainer.data.masking.chat_templates import Template, choose
from trainer.data.masking.encoding import Encoder
from trainer.data.masking.loss_mask import LossMasker, Rendered
from trainer.data.rows.messages import BadRow, Example

VERSION = 3
TOKENS, ACCOUNT = "tokens.arrow", "account.json"
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("input_ids", pa.list_(pa.int32())),
        ("counts", pa.list_(pa.bool_())),
        ("length", pa.int32()),
        ("first", pa.int32()),
        ("last", pa.int32()),
        ("document", pa.bool_()),
    ]
)
"""`row`: number in rows.arrow. `counts`: whether the loss counts the token. `first`, `last`: from the first
counted token to the one after the last; `first` is `length` where none counts. `document`: whether it is plain
text."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of all good rows, and the rows that the template refused."""

    folder: Path
    account: dict[str, Any]

    @property
    def bad(self) -> list[RejectedRow]:
        return [RejectedRow(*item) for item in self.account["bad"]]

    def dataset(self) -> Any:
        """A memory-mapped `datasets.Dataset` with the columns of SCHEMA."""
        from datasets import Dataset

        return Dataset.from_file(str(self.folder / TOKENS))

    def column(self, name: str) -> np.ndarray:
        """One of the columns of single numbers."""
        return np.asarray(self.dataset().data.column(name))


def tokenize(
    checked: CheckedData,
    data: DataConfig,
    tokenizer: Any,
    data_dir: Path,
    progress: Progress | None = None,
    template: Template | None = None,
) -> Tokens:
    """The tokens of everything that is good in `checked`. Raises UserError where the template does not exist."""
    template = template or choose(data, tokenizer, checked.account["shapes"])
    rules = [data.loss_on, data.reasoning, data.answer_end]
    key = disk_cache.key_of("tokens", VERSION, checked.key, template.identity, rules, identity(tokenizer))
    folder = disk_cache.made(data_dir, key, lambda draft: _Writer(draft, template, data, progress).write(checked))
    return Tokens(folder, orjson.loads((folder / ACCOUNT).read_bytes()))


def identity(tokenizer: Any) -> str:
    """A name of everything in a tokenizer that decides which tokens it makes."""
    if tokenizer.is_fast:
        inside = tokenizer.backend_tokenizer.to_str()
    else:
        inside = repr(sorted(tokenizer.get_vocab().items())) + repr(tokenizer.init_kwargs)
    special = repr(sorted((name, str(value)) for name, value in tokenizer.special_tokens_map.items()))
    return hashlib.sha256(f"{type(tokenizer).__name__}\0{special}\0{inside}".encode()).hexdigest()


class _Writer:
    def __init__(self, folder: Path, template: Template, data: DataConfig, progress: Progress | None) -> None:
        self._folder, self._progress = folder, progress
        self._masker = LossMasker(template, data)
        self._encode = Encoder(template.tokenizer, template)
        self._template = template
        self._bad: list[RejectedRow] = []
        self._dropped: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self._kinds: Counter[tuple[str, bool]] = Counter()
        self._last_report = 0.0

    def write(self, checked: CheckedData) -> None:
        files = checked.account["files"]
        with (
            pa.OSFile(str(self._folder / TOKENS), "wb") as file,
            pa.ipc.new_stream(file, SCHEMA) as stream,
            ThreadPoolExecutor(1) as pool,
        ):
            waiting: Future[pa.RecordBatch] | None = None
            for start, table in _batches(checked):
                job = pool.submit(self._encoded, *self._rendered(table, start, files))
                if waiting is not None:
                    stream.write_batch(waiting.result())
                waiting = job
                self._report_progress((start + table.num_rows) / max(checked.good, 1))
            if waiting is not None:
                stream.write_batch(waiting.result())
        (self._folder / ACCOUNT).write_bytes(orjson.dumps(self._account()))

    def _account(self) -> dict[str, Any]:
        kinds = dict.fromkeys(kind for kind, _ in self._kinds)
        return {
            "bad": list(map(list, self._bad)),
            "template": self._template.kind,
            "why": self._template.why,
            "dropped": dict(self._dropped.most_common()),
            "notes": dict(self._notes.most_common()),
            "end": self._masker.end if any(kind != "text" for kind in kinds) else None,
            "kinds": {kind: [self._kinds[kind, True], self._kinds[kind, False]] for kind in kinds},
        }

    def _rendered(
        self, table: pa.RecordBatch, start: int, files: list[str]
    ) -> tuple[list[int], list[Rendered], list[bool]]:
        """(numbers of rows, their texts, which of them are plain text) of the rows that the template takes."""
        examples: list[Example] = [orjson.loads(text) for text in table.column("example").to_pylist()]
        rows: list[int] = []
        texts: list[Rendered] = []
        plain: list[bool] = []
        for place, text in enumerate(self._masker.all(examples)):
            if isinstance(text, BadRow):
                name = files[table.column("file")[place].as_py()]
                self._bad.append(RejectedRow(name, table.column("line")[place].as_py(), str(text)))
                continue
            rows.append(start + place)
            texts.append(text)
            self._dropped.update(text.dropped)
            self._notes.update(text.notes)
            self._kinds.update(text.kinds)
            plain.append("text" in examples[place])
        return rows, texts, plain

    def _encoded(self, rows: list[int], texts: list[Rendered], plain: list[bool]) -> pa.RecordBatch:
        found = self._encode(texts, plain)
        lengths = np.array([len(ids) for ids, _ in found], np.int32)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        offsets = pa.array(starts, pa.int32())
        ids = np.fromiter(itertools.chain.from_iterable(ids for ids, _ in found), np.int32, count=int(starts[-1]))
        counts = np.zeros(len(ids), bool)
        for (_, ranges), start in zip(found, starts.tolist(), strict=False):
            for first, last in ranges:
                counts[start + first : start + last] = True
        firsts = [ranges[0][0] if ranges else len(ids) for ids, ranges in found]
        lasts = [ranges[-1][1] if ranges else len(ids) for ids, ranges in found]
        arrays = [
            pa.array(rows, pa.int64()),
            pa.ListArray.from_arrays(offsets, pa.array(ids)),
            pa.ListArray.from_arrays(offsets, pa.array(counts)),
            pa.array(lengths),
            pa.array(firsts, pa.int32()),
            pa.array(lasts, pa.int32()),
            pa.array(plain),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)

    def _report_progress(self, share: float) -> None:
        now = time.monotonic()
        if self._progress is not None and now - self._last_report > 0.2:
            self._last_report = now
            self._progress("tokenizing", share)


def _batches(checked: CheckedData) -> Iterator[tuple[int, pa.RecordBatch]]:
    start = 0
    for batch in checked.batches():
        for place in range(0, batch.num_rows, BATCH // 4):
            part = batch.slice(place, BATCH // 4)
            yield start, part
            start += part.num_rows
