"""Prepares the data of a run: checks, tokenizes, and splits it into training and held-out examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainer.common.errors import Issue, UserError
from trainer.common.progress import Progress
from trainer.config.schema import DataConfig
from trainer.data import lengths
from trainer.data.checking import CheckedData, RejectedRow, check
from trainer.data.chunks import chunked
from trainer.data.masking.chat_templates import Template, choose
from trainer.data.splits import split, without
from trainer.data.tokenization import Tokens, tokenize
from trainer.planning.schedule import Size

MAX_NAMED = 5
"""Reasons, and lines of each, that a sentence names."""


@dataclass(frozen=True)
class DataSplit:
    """Some of the examples of one source: the training or the held-out part."""

    checked: CheckedData
    tokens: Tokens
    chosen: np.ndarray
    """Numbers of examples in `tokens`."""

    def column(self, name: str) -> np.ndarray:
        found: np.ndarray = self.tokens.column(name)[self.chosen]
        return found

    def keys(self) -> np.ndarray:
        """One number per example, equal for equal ones."""
        found: np.ndarray = self.checked.keys()[self.column("row")]
        return found

    def chunked(self, max_length: int) -> DataSplit:
        """All examples, with plain text in chunks of at most `max_length` tokens."""
        tokens = chunked(self.tokens, max_length)
        return replace(self, tokens=tokens, chosen=np.arange(len(tokens.column("row"))))

    def fitting(self, max_length: int) -> DataSplit:
        """The examples of which something counts within `max_length` tokens."""
        fits = self.column("first") < np.minimum(self.column("length"), max_length)
        return replace(self, chosen=self.chosen[fits])

    def dataset(self) -> Any:
        """A memory-mapped `datasets.Dataset` with the columns input_ids, counts and length."""
        found = self.tokens.dataset().select_columns(["input_ids", "counts", "length"])
        return found.select(self.chosen).with_format("numpy")


@dataclass(frozen=True)
class LoadedData:
    """The loaded data; the maximum length is applied to plain text alone, which comes in chunks of it."""

    template: Template
    train: DataSplit
    held_out: DataSplit | None
    bad: list[RejectedRow]
    shared: int
    """Held-out examples that were left out, since their text is among the training examples, too."""

    checks: tuple[CheckedData, ...]
    """The training data, and the held-out data where they are of their own."""

    @property
    def rows(self) -> int:
        return sum(int(checked.account["rows"]) for checked in self.checks)

    @property
    def decisions(self) -> list[Issue]:
        """What the user has to decide before a run can start."""
        return list(dict.fromkeys(issue for checked in self.checks for issue in checked.decisions))


@dataclass(frozen=True)
class PreparedData:
    """What a trainer takes: `datasets.Dataset`s with the columns input_ids, counts and length, uncut."""

    train: Any
    eval: Any | None
    notes: tuple[str, ...]
    """What was cut or left out, in sentences."""
    skipped: tuple[RejectedRow, ...]
    """The rows that cannot be used and were left out."""
    lengths: np.ndarray
    """Tokens of each training example, cut at the maximum length."""
    template: Template | None = None
    """How the examples are rendered."""
    held_out: DataSplit | None = None
    """The examples of `eval` with the rows that they come from."""

    @property
    def size(self) -> Size:
        held_out = [] if self.eval is None else [np.asarray(self.eval["length"])]
        return lengths.size([self.lengths, *held_out])


def load_data(
    data: DataConfig, tokenizer: Any, max_length: int, seed: int, data_dir: Path, progress: Progress | None = None
) -> LoadedData:
    """Check and tokenize everything, and split it, plain text also into chunks of `max_length` tokens.

    Raises UserError if there is no usable data.
    """
    checked = check(data, data_dir, progress)
    if not checked.account["rows"]:
        raise UserError("The data is empty.", "Choose a file with at least one example.", "data")
    template = choose(data, tokenizer, checked.account["shapes"])
    whole = _part(checked, data, template, data_dir, progress).chunked(max_length)
    bad = [*checked.bad, *whole.tokens.bad]
    if not data.held_out and data.source != "demo":
        train, held = split(whole.keys(), data.eval_fraction, seed)
        if not len(held) and len(whole.chosen) > checked.good:  # a single document, in chunks
            train, held = split(whole.chosen, data.eval_fraction, seed)
        held_out = replace(whole, chosen=held) if len(held) else None
        return LoadedData(template, replace(whole, chosen=train), held_out, bad, 0, (checked,))
    held_out_data = check(data, data_dir, progress, held_out=True)
    other = _part(held_out_data, data, template, data_dir, progress).chunked(max_length)
    bad += [*other.checked.bad, *other.tokens.bad]
    kept = without(other.keys(), whole.keys())
    shared = len(other.chosen) - len(kept)
    held_out = replace(other, chosen=kept) if len(kept) else None
    return LoadedData(template, whole, held_out, bad, shared, (checked, other.checked))


def prepare(
    data: DataConfig,
    tokenizer: Any,
    max_length: int,
    seed: int,
    data_dir: Path,
    progress: Progress | None = None,
) -> PreparedData:
    """What a run trains and evaluates on. Raises UserError where the data cannot be trained on."""
    found = load_data(data, tokenizer, max_length, seed, data_dir, progress)
    for issue in found.decisions:
        raise UserError(issue.problem, issue.fix, "data")
    if found.bad and (data.bad_rows == "stop" or not len(found.train.chosen)):
        raise rejected_rows_error(found.bad, found.rows)
    train = found.train.fitting(max_length)
    if not len(train.chosen):
        raise no_counted_tokens_error()
    notes = _notes(found.train, max_length, "training")
    held_out = None
    if found.held_out is not None:
        notes += _notes(found.held_out, max_length, "held-out")
        held_out = found.held_out.fitting(max_length)
        held_out = held_out if len(held_out.chosen) else None
    if found.shared:
        notes.append(f"{found.shared:,} held-out examples are left out: they are among the training examples, too.")
    if found.bad:
        notes.append(_skipped(found.bad, found.rows))
    return PreparedData(
        train=train.dataset(),
        eval=held_out.dataset() if held_out is not None else None,
        notes=tuple(notes),
        skipped=tuple(found.bad),
        lengths=np.minimum(train.column("length"), max_length),
        template=found.template,
        held_out=held_out,
    )


def rejected_rows_error(bad: Sequence[RejectedRow], rows: int) -> UserError:
    """The error for rejected rows: counts all, and names the first lines of each reason."""
    groups = grouped(bad)
    shown = "; ".join(f"{_named(items)}: {reason}" for reason, items in groups[:MAX_NAMED])
    more = f"; {len(groups) - MAX_NAMED:,} more reasons" if len(groups) > MAX_NAMED else ""
    return UserError(
        f"{len(bad):,} of {rows:,} rows are invalid: {shown}{more}.",
        "Fix or remove these rows, or train without them (bad_rows: skip).",
        "data",
    )


def _named(items: Sequence[RejectedRow]) -> str:
    lines = ", ".join(map(str, line_numbers(items)[:MAX_NAMED]))
    more = f" and {len(items) - MAX_NAMED:,} more" if len(items) > MAX_NAMED else ""
    return f"{'line' if len(items) == 1 else 'lines'} {lines}{more}"


def line_numbers(bad: Sequence[RejectedRow]) -> list[int | str]:
    """Numbers of lines; with the file before them, where there are several."""
    several = len({item.file for item in bad}) > 1
    return [f"{item.file}:{item.line}" if several else item.line for item in bad]


def no_counted_tokens_error() -> UserError:
    """The error for data in which no token counts for the loss."""
    return UserError(
        "No token of this data counts for the loss: every answer is empty or beyond max_length.",
        "Raise max_length, or let all tokens count.",
        "data",
    )


def grouped(bad: Sequence[RejectedRow]) -> list[tuple[str, list[RejectedRow]]]:
    """Rejected rows by their reason, the most frequent one first."""
    reasons: dict[str, list[RejectedRow]] = {}
    for item in bad:
        reasons.setdefault(item.reason, []).append(item)
    return sorted(reasons.items(), key=lambda item: -len(item[1]))


def _part(
    checked: CheckedData, data: DataConfig, template: Template, data_dir: Path, progress: Progress | None
) -> DataSplit:
    tokens = tokenize(checked, data, template.tokenizer, data_dir, progress, template)
    return DataSplit(checked, tokens, np.arange(len(tokens.column("row"))))


def _notes(part: DataSplit, max_length: int, name: str) -> list[str]:
    found = lengths.cuts(part.column("length"), part.column("first"), part.column("last"), max_length)
    total, notes = len(part.chosen), []
    if found["longer"]:
        notes.append(
            f"{found['longer']:,} of {total:,} {name} examples are longer than max_length {max_length} and cut off "
            f"there; {found['answers_cut']:,} answers lose their end."
        )
    if found["nothing_counts"]:
        notes.append(
            f"{found['nothing_counts']:,} of {total:,} {name} examples are left out: nothing in them counts for the "
            "loss."
        )
    return notes


def _skipped(bad: Sequence[RejectedRow], rows: int) -> str:
    reasons = Counter(item.reason for item in bad).most_common(3)
    shown = "; ".join(f"{count:,} × {reason}" for reason, count in reasons)
    return f"{len(bad):,} of {rows:,} rows are invalid and skipped: {shown}. skipped_rows.jsonl lists them."
