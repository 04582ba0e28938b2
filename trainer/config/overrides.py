"""Overrides of settings by path, from `--set` options or a suggested fix."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from trainer.common.errors import UserError, Value

_SETTING = re.compile(r"(?:([^.\[\]]+)\.)?([^.\[\]]+)")
_OF_A_TICK = re.compile(r"modules\[(\d{1,6})\]\.([^.\[\]]+)", re.ASCII)


def apply(config: Any, changes: Mapping[str, Value]) -> Any:
    """The parsed JSON of a configuration with these values set; they are validated later.

    Raises UserError for an invalid path.
    """
    for path, value in changes.items() if isinstance(config, dict) else ():
        if tick := _OF_A_TICK.fullmatch(path):
            config = {**config, "modules": _with_tick(config.get("modules"), int(tick[1]), tick[2], value)}
            continue
        match = _SETTING.fullmatch(path)
        part, name = (match[1], match[2]) if match else ("", "")
        old = config.get(part, {}) if part else config
        if not match or isinstance(old, list):
            raise UserError(
                f"“{path[:100]}” is not the path of a setting.",
                "Write training.max_steps=100 or modules[0].lr=5e-4.",
                "data",
            )
        if isinstance(old, dict):
            new = {**old, name: value}
            config = {**config, part: new} if part else new
    return config


def _with_tick(ticks: Any, number: int, key: str, value: Value) -> list[Any]:
    """The ticks with one field of one tick changed. Raises UserError if there is no such tick."""
    count = len(ticks) if isinstance(ticks, list) else 0
    if number >= count:
        has = f"The configuration has {count} ticks" if count != 1 else "The configuration has one tick"
        fix = f"The last one is modules[{count - 1}]." if count else "Add the tick to its modules."
        raise UserError(f"{has}: there is no modules[{number}].", fix, "data")
    return [
        {**tick, key: value} if place == number and isinstance(tick, dict) else tick
        for place, tick in enumerate(ticks)
    ]


def as_options(changes: Mapping[str, Value]) -> str:
    """The command line options that make these changes."""
    return " ".join(f"--set {path}={_text(value)}" for path, value in changes.items())


def from_options(options: Iterable[str]) -> dict[str, Value]:
    """The changes of `--set FIELD=VALUE` options. Raises UserError if one has no name or no value."""
    changes: dict[str, Value] = {}
    for option in options:
        path, equals, text = option.partition("=")
        if not (path.strip() and equals):
            raise UserError(f"--set {option!r} names no value.", "Write --set training.max_steps=100.", "data")
        changes[path.strip()] = _value(text)
    return changes


def _text(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(text: str) -> Any:
    """A number, true, false, null, a quoted text or a list; anything else is text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, dict) else value
