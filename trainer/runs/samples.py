"""samples.jsonl: the answers of a run to held-out prompts at each evaluation, one JSON row each.

Rows: {"type": "prompts", "prompts": [{"text", "before", "reference"}]}, then {"type": "answers", "step", "answers":
[{"text", "ended"}], "tokens", "seconds"}. Written like events.jsonl (`event_log`). The last row of a step counts: a
resumed run repeats the steps since its checkpoint. Runs of earlier versions have no such file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainer.common import bounded_files
from trainer.common.bounded_files import DamagedFile
from trainer.common.plain_text import visible
from trainer.runs import event_rows
from trainer.runs.index import Stamp, stamp_of

FILE = "samples.jsonl"
MAX_TEXT = 4000
"""Characters of a text that are kept."""
MAX_PROMPTS = 10
MAX_READ = 2**23
"""Bytes that are read: the prompts, and the newest answers."""
CUT = "…"


@dataclass(frozen=True)
class Prompt:
    """A held-out prompt with its reference answer."""

    text: str
    before: str
    """Earlier messages, each with its role; empty if there is none."""
    reference: str


@dataclass(frozen=True)
class Answer:
    """What the model wrote."""

    text: str
    ended: bool
    """Whether it ended by itself, and not by the limit of tokens."""


@dataclass(frozen=True)
class Answers:
    """The answers at one evaluation, one per prompt."""

    step: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Samples:
    """All that is known of a run's samples."""

    prompts: tuple[Prompt, ...] = ()
    answers: tuple[Answers, ...] = ()
    """By step, the first evaluation first."""

    def thinned(self, most: int) -> Samples:
        """At most `most` evaluations: the first, the last, and others at equal distances."""
        last = len(self.answers) - 1
        if last < most:
            return self
        chosen = sorted({round(number * last / (most - 1)) for number in range(most)})
        return Samples(self.prompts, tuple(self.answers[number] for number in chosen))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def shortened(text: str) -> str:
    """A text as it is stored."""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + CUT


def read(folder: Path) -> Samples:
    """The samples of a run; what is damaged is left out."""
    path = folder / FILE
    return _read(path, tuple(stamp_of(str(path))))


@lru_cache(maxsize=32)
def _read(path: Path, _stamp: tuple[int, ...]) -> Samples:
    size = bounded_files.size(path)
    if not size:
        return Samples()
    try:
        with event_rows.open_events(path) as file:
            head = next(iter(event_rows.rows(file, 0)), (b"", 0))
            start = max(head[1], size - MAX_READ)
            return _folded([head[0], *(row for row, _ in event_rows.rows(file, start))])
    except (OSError, DamagedFile):
        return Samples()


def stamp(folder: Path) -> Stamp:
    """Changes when there are new samples."""
    return stamp_of(f"{folder}/{FILE}")


def _folded(rows: Iterable[bytes]) -> Samples:
    prompts: tuple[Prompt, ...] = ()
    answers: dict[int, Answers] = {}
    for row in rows:
        event = event_rows.parse(row) or {}
        if event.get("type") == "prompts" and (found := _prompts(event.get("prompts"))):
            answers = answers if found == prompts else {}
            prompts = found
        elif event.get("type") == "answers":
            at, step = _answers(event.get("answers")), event.get("step")
            if event_rows.is_whole(step) and 0 <= step < 2**53 and at and len(at) == len(prompts):
                answers[step] = Answers(step, at)
    return Samples(prompts, tuple(answers[step] for step in sorted(answers)))


def _prompts(value: Any) -> tuple[Prompt, ...]:
    items = _items(value)
    return tuple(Prompt(*(_text(item.get(key)) for key in ("text", "before", "reference"))) for item in items)


def _answers(value: Any) -> tuple[Answer, ...]:
    return tuple(Answer(_text(item.get("text")), item.get("ended") is True) for item in _items(value))


def _items(value: Any) -> Sequence[dict[str, Any]]:
    """The objects of a list; nothing if it is damaged."""
    valid = isinstance(value, list) and len(value) <= MAX_PROMPTS and all(isinstance(item, dict) for item in value)
    return value if valid else ()


def _text(value: Any) -> str:
    return visible(value[:MAX_TEXT]) if isinstance(value, str) else ""
