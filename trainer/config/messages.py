"""Messages for values that pydantic rejects."""

from __future__ import annotations

import difflib
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from trainer.common.errors import Issue
from trainer.config.schema import RunConfig

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SENTENCES = {
    "unexpected_keyword_argument": ("This setting does not exist.", "{nearest}"),
    "missing": ("This is missing.", "Add it."),
    "dataclass_type": ("{value} is not an object.", "Write {{…}} with named settings."),
    "tuple_type": ("{value} is not a list.", "Write […]."),
    "literal_error": ("{value} is not one of the choices.", "Choose {expected}."),
    "int_type": ("{value} is not a whole number.", "Write a whole number."),
    "float_type": ("{value} is not a number.", "Write a number."),
    "bool_type": ("{value} is not true or false.", "Write true or false."),
    "string_type": ("{value} is not text.", "Write text."),
    "finite_number": ("{value} is not finite.", "Write a finite number."),
    "greater_than_equal": ("{value} is too small.", "Use at least {ge:.10g}."),
    "greater_than": ("{value} is too small.", "Use more than {gt:.10g}."),
    "less_than_equal": ("{value} is too large.", "Use at most {le:.10g}."),
    "float_overflow": ("{value} is too large.", "Write a smaller number."),
}
"""Problem and fix, by pydantic's error type."""


def issue(error: ErrorDetails) -> Issue:
    """The issue for one item of `ValidationError.errors()`."""
    place, kind = error["loc"], error["type"]
    if kind == "float_type" and type(error["input"]) is int:
        kind = "float_overflow"  # beyond a float's range
    words = {"value": show(error["input"]), **error.get("ctx", {})}
    words["expected"] = words.get("expected", "").replace("'", "")
    words["nearest"] = _nearest(place) if kind == "unexpected_keyword_argument" else ""
    problem, fix = _SENTENCES.get(kind, ("{value} cannot be used here.", "Write another value."))
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:80]}" for part in place).removeprefix(".")
    return Issue(field or "config", problem.format_map(words), fix.format_map(words))


def _nearest(place: tuple[int | str, ...]) -> str:
    """A suggestion for an unknown setting: the closest name, or all names."""
    part = get_type_hints(RunConfig)[str(place[0])] if len(place) > 1 else RunConfig
    known = sorted(field.name for field in fields(next(iter(get_args(part)), part)))
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    return f"Did you mean {close[0]}?" if close else f"Choose from {', '.join(known)}."


def show(value: Any) -> str:
    """A JSON value as the beginning of a sentence."""
    if isinstance(value, dict | list):
        return "An object" if isinstance(value, dict) else "A list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"
