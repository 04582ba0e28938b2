"""Errors that the user sees.

UserError
 └─ InvalidConfig   a configuration with problems, all of them listed
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Cure:
    """One way to solve a problem, and what it leads to."""

    changes: Mapping[str, Value]
    """Settings by path, and their new values."""
    result: str
    """A phrase such as "needs 61.2 GB"."""


@dataclass(frozen=True)
class Issue:
    """One problem of a configuration: where it is, what is wrong, what to do."""

    field: str
    problem: str
    fix: str
    changes: Mapping[str, Value] = dataclasses.field(default_factory=dict, hash=False)
    """Settings by path (`training.max_steps`) and the values that fix the problem, if known. The page offers them as
    a button, the command line as `--set` options."""
    cures: tuple[Cure, ...] = dataclasses.field(default=(), hash=False)
    """Where there are several ways to solve it: each of them alone; `changes` is the first."""

    def __str__(self) -> str:
        return f"{self.field}: {self.problem} {self.fix}".strip()

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["cures"] = list(value["cures"])
        return value if self.cures else {key: item for key, item in value.items() if key != "cures"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Issue:
        return cls(**{**value, "cures": tuple(Cure(**item) for item in value.get("cures", ()))})


class UserError(Exception):
    """The only exception whose text is shown to the user.

    `problem` says what is wrong and where, `fix` what to do; both are full sentences.
    `cause` is one of the causes of a failed run (oom, nonfinite, disk, data, model, bug).
    """

    def __init__(self, problem: str, fix: str = "", cause: str = "model") -> None:
        super().__init__(f"{problem} {fix}".strip())
        self.problem = problem
        self.fix = fix
        self.cause = cause


class InvalidConfig(UserError):
    """A configuration that cannot run, with all its problems."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__("\n".join(str(issue) for issue in issues))
        self.issues = tuple(issues)


_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
"""How torch, the operating system and C++ libraries report it; Python and pyarrow raise MemoryError."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, then what caused it, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error, or one of its causes, is a lack of memory."""
    return any(
        isinstance(part, MemoryError) or any(word in str(part).lower() for word in _MEMORY_WORDS)
        for part in causes(error)
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, short enough for a sentence."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]
