"""New values for settings, by their paths: those that a warning proposes, and those of `--set`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from trainer.errors import UserError, Value


def apply(config: Any, changes: Mapping[str, Value]) -> Any:
    """The parsed JSON of a configuration with these values in place. What is wrong with them, `parsing` says."""
    for path, value in changes.items() if isinstance(config, dict) else ():
        part, _, name = path.rpartition(".")
        old = config.get(part, {}) if part else config
        if isinstance(old, dict):
            new = {**old, name: value}
            config = {**config, part: new} if part else new
    return config


def as_options(changes: Mapping[str, Value]) -> str:
    """The options of the command line that make these changes."""
    return " ".join(f"--set {path}={_text(value)}" for path, value in changes.items())


def from_options(options: Iterable[str]) -> dict[str, Value]:
    """The changes that `--set FIELD=VALUE` options ask for. Raises UserError where one of them is none."""
    changes: dict[str, Value] = {}
    for option in options:
        path, equals, text = option.partition("=")
        if not (path.strip() and equals):
            raise UserError(f"--set {option!r} names no value.", "Write --set training.max_steps=100.", "data")
        changes[path.strip()] = _value(text)
    return changes


def _text(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(text: str) -> Value:
    """A number, true, false or null; anything else is text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if not isinstance(value, dict | list) else text
