"""plan.json of a run, as far as it can be used: what is damaged is left out and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.common import bounded_files
from trainer.common.bounded_files import DamagedFile

FILE = "plan.json"
MAX_BYTES = 32_000_000
"""A plan lists the modules that were matched: about 2 MB for the largest published models."""
MAX_NUMBER = 2**63
REQUIRED = ("receipts",)
"""Every version has written these."""


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """The valid part of a run's plan, and what is wrong with the rest, as a sentence; empty if nothing is."""
    try:
        value = bounded_files.read_json(folder / FILE, MAX_BYTES)
    except DamagedFile as error:
        return {}, error.problem
    if not isinstance(value, dict):
        return {}, f"{FILE} is not a plan."
    damaged = [
        key for key, is_valid in _SHAPES.items() if key in (*value, *REQUIRED) and not is_valid(value.get(key))
    ]
    valid = {key: item for key, item in value.items() if key not in damaged}
    return valid, f"{FILE} is damaged: {', '.join(damaged)}." if damaged else ""


def is_count(value: Any) -> bool:
    """Whether it is a number of parameters, bytes or steps."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MAX_NUMBER


def is_match_report(value: Any) -> bool:
    """Whether it is a list of match reports."""
    return _is_list_of(value, ("tick", "treatment", "note"))


def is_issues(value: Any) -> bool:
    """Whether it is a list of problems."""
    return _is_list_of(value, ("field", "problem", "fix"))


def _is_list_of(value: Any, texts: tuple[str, ...]) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and all(isinstance(item.get(name), str) for name in texts) for item in value
    )


def _is_count_or_unknown(value: Any) -> bool:
    return value is None or is_count(value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_memory(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_count, value.values()))


def _is_settings(value: Any) -> bool:
    """Performance settings, of which the micro-batch is read back."""
    return isinstance(value, dict) and is_count(value.get("per_device_train_batch_size", 1))


_SHAPES: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("trainable", "total", "adapter_bytes", "memory_predicted", "steps"), _is_count_or_unknown),
    "memory": _is_memory,
    "levers": _is_settings,
    "checkpoint": lambda value: value is None or _is_object(value),
    "device_memory": _is_object,
    "receipts": is_match_report,
    "issues": is_issues,
    "warnings": is_issues,
}
