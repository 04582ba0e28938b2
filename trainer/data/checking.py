"""Checks all data: every row becomes an example, or a reason why it cannot be used.

What is found is kept in the cache as rows.arrow (memory-mapped) and account.json.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import orjson
import pyarrow as pa
import xxhash

from trainer import demo
from trainer.common import disk_cache
from trainer.common.errors import Issue, UserError
from trainer.common.progress import Progress
from trainer.config.schema import DataConfig
from trainer.data.readers import hub_datasets, limits
from trainer.data.readers.files import DataFile, find_files
from trainer.data.readers.limits import PROBLEM, Row
from trainer.data.rows.decisions import open_decisions
from trainer.data.rows.format_description import describe
from trainer.data.rows.format_detection import PICKS, FormatDetector, LeftOut
from trainer.data.rows.messages import BadRow, Example, Undecided

VERSION = 3
ROWS, ACCOUNT = "rows.arrow", "account.json"
MAX_LISTED = 1000
"""Lines that are kept of each shape of rows."""
BATCH, BATCH_BYTES = 2000, 2**23
SCHEMA = pa.schema([("file", pa.int16()), ("line", pa.int64()), ("example", pa.large_binary()), ("key", pa.uint64())])
"""`example` is JSON; `key` is a hash of it, equal for equal examples."""


class Source(Protocol):
    """Where rows come from: a file, or a split of a hub data set."""

    @property
    def name(self) -> str: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def warnings(self) -> Sequence[Issue]: ...
    def rows(self) -> Iterator[tuple[int, Row]]: ...


class RejectedRow(NamedTuple):
    """A row that cannot be used."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True)
class CheckedData:
    """What a check found: the good rows in `folder`/rows.arrow, and an account of all."""

    folder: Path
    account: dict[str, Any]

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def good(self) -> int:
        return int(self.account["good"])

    @property
    def decisions(self) -> list[Issue]:
        """What the user has to decide before a run can start."""
        return [Issue.from_json(item) for item in self.account["decisions"]]

    @property
    def bad(self) -> list[RejectedRow]:
        return [RejectedRow(*item) for item in self.account["bad"]]

    def dataset(self) -> Any:
        """The good rows as a memory-mapped `datasets.Dataset` with the columns of SCHEMA."""
        from datasets import Dataset

        return Dataset.from_file(str(self.folder / ROWS))

    def keys(self) -> np.ndarray:
        return np.asarray(self.dataset().data.column("key"), dtype=np.uint64)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The good rows in their order. Read, not mapped: a pass over all of them holds a batch at a time."""
        with pa.OSFile(str(self.folder / ROWS)) as file, pa.ipc.open_stream(file) as stream:
            yield from stream

    def examples(self) -> Iterator[Example]:
        for batch in self.batches():
            yield from map(orjson.loads, batch.column("example").to_pylist())


def check(data: DataConfig, data_dir: Path, progress: Progress | None = None, held_out: bool = False) -> CheckedData:
    """Check the training part of the data, or the part that `data.held_out` names.

    Raises UserError where the data is missing, of no known kind, broken as a whole, or almost all bad.
    """
    sources, versions = _sources(data, data_dir, held_out, progress)
    key = disk_cache.key_of("rows", VERSION, versions, _reading(data))
    folder = disk_cache.made(data_dir, key, lambda draft: _Writer(draft, data, progress).write(sources))
    return CheckedData(folder, orjson.loads((folder / ACCOUNT).read_bytes()))


def _sources(
    data: DataConfig, data_dir: Path, held_out: bool, progress: Progress | None
) -> tuple[Sequence[Source], list[list[str]]]:
    if data.source == "hub":
        found = hub_datasets.find(data, data.held_out if held_out else data.split)
        return [found], [[found.name, found.subset, found.split, found.version]]
    if data.source == "demo":
        path = demo.HELDOUT_FILE if held_out else demo.TRAIN_FILE
        files: tuple[DataFile, ...] = (DataFile(path, path.name),)
    else:
        files = find_files(data.held_out if held_out else data.path, data_dir)
    for file in files:
        _ = file.kind  # refused before anything is read
    versions = []
    for number, file in enumerate(files):
        if progress is not None:
            progress("reading", number / len(files))
        versions.append([file.name, file.digest()])
    return files, versions


def _reading(data: DataConfig) -> list[str]:
    """The settings that decide what is read in a row."""
    return [
        *(getattr(data, f"{name}_column") for name in PICKS),
        *(data.assistant_role, data.roles, data.preference_rows, data.media),
    ]


class _Writer:
    """Writes the examples of all sources, and keeps account."""

    def __init__(self, folder: Path, data: DataConfig, progress: Progress | None) -> None:
        self._folder, self._data, self._progress = folder, data, progress
        self._detector = FormatDetector(data)
        self._bad: list[RejectedRow] = []
        self._lines = defaultdict[str, list[tuple[str, int]]](list)
        """Files and lines of the rows, by their shape."""
        self._rows = self._good = 0
        self._undecided = 0
        self._left_out: Counter[str] = Counter()
        self._last_report = 0.0

    def write(self, sources: Sequence[Source]) -> None:
        with pa.OSFile(str(self._folder / ROWS), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as stream:
            for number, source in enumerate(sources):
                for batch in self._batches(source, number):
                    stream.write_batch(batch)
                    self._report_progress(source, (number, len(sources)))
        (self._folder / ACCOUNT).write_bytes(orjson.dumps(self._account(sources)))

    def _batches(self, source: Source, number: int) -> Iterator[pa.RecordBatch]:
        lines: list[int] = []
        examples: list[bytes] = []
        keys: list[int] = []
        size = 0
        read, dumps, digest = self._detector.examples, orjson.dumps, xxhash.xxh3_64_intdigest
        for line, row in source.rows():
            self._rows += 1
            try:
                if PROBLEM in row:
                    raise BadRow(row[PROBLEM])
                texts = [dumps(example) for example in read(row)]
            except BadRow as error:
                self._refuse(source, line, error)
                continue
            except TypeError:
                self._refuse(source, line, BadRow("it holds values that are neither text nor JSON"))
                continue
            if len(of_shape := self._lines[self._detector.shape]) < MAX_LISTED:
                of_shape.append((source.name, line))
            for text in texts:
                lines.append(line)
                examples.append(text)
                keys.append(digest(text))
                size += len(text)
            if len(lines) >= BATCH or size > BATCH_BYTES:
                yield self._batch(number, lines, examples, keys)
                lines, examples, keys, size = [], [], [], 0
        if lines:
            yield self._batch(number, lines, examples, keys)

    def _batch(self, number: int, lines: list[int], examples: list[bytes], keys: list[int]) -> pa.RecordBatch:
        self._good += len(lines)
        arrays = [
            pa.array(np.full(len(lines), number), pa.int16()),
            pa.array(lines, pa.int64()),
            pa.array(examples, pa.large_binary()),
            pa.array(keys, pa.uint64()),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)

    def _refuse(self, source: Source, line: int, error: BadRow) -> None:
        if isinstance(error, Undecided):
            self._undecided += 1
            return
        if isinstance(error, LeftOut):
            self._left_out[str(error)] += 1
            return
        self._bad.append(RejectedRow(source.name, line, str(error)))
        if len(self._bad) > limits.MAX_BAD:
            raise UserError(
                f"More than {limits.MAX_BAD:,} rows of {source.name} cannot be used, such as line {line}: {error}.",
                "See whether the file is of the kind that its name says, and pick its columns by hand.",
                "data",
            )

    def _report_progress(self, source: Source, place: tuple[int, int]) -> None:
        now = time.monotonic()
        if self._progress is not None and now - self._last_report > 0.2:
            self._last_report = now
            share = source.share() if isinstance(source, DataFile) else 0.0
            self._progress("checking", (place[0] + share) / place[1])

    def _account(self, sources: Sequence[Source]) -> dict[str, Any]:
        found = self._detector
        reader = found.reader
        seen: Counter[str] = Counter()
        for (shape, _), count in found.seen.items():
            seen[shape] += count
        notes = [note for source in sources for note in source.notes]
        decisions = open_decisions(self._data, reader, found.preferences)
        return {
            "files": [source.name for source in sources],
            "rows": self._rows,
            "good": self._good,
            "bad": list(map(list, self._bad)),
            "undecided": self._undecided,
            "left_out": dict(self._left_out),
            "decisions": [issue.to_json() for issue in decisions],
            "unknown_roles": dict(reader.unknown.most_common()),
            "shapes": dict(seen.most_common()),
            "other_shapes": {shape: self._lines[shape] for shape, _ in seen.most_common()[1:]},
            "why": " ".join(filter(None, [describe(found.seen, reader), *notes])),
            "assumed": [issue.to_json() for source in sources for issue in source.warnings],
            "columns": list(found.names)[: limits.MAX_COLUMNS],
            "unused": {
                "columns": dict(found.unused.most_common()),
                "fields": dict(reader.items.unused.most_common()),
                "media": dict(reader.items.dropped.most_common()),
            },
            "several_answers": dict(found.several),
            "duplicates": self._duplicates(),
        }

    def _duplicates(self) -> int:
        with pa.memory_map(str(self._folder / ROWS)) as file:
            keys = pa.ipc.open_stream(file).read_all().column("key")
            return len(keys) - len(np.unique(np.asarray(keys, dtype=np.uint64)))
