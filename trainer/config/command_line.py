"""A configuration as the command that trains it: every setting that is not the default, as `--set`."""

from __future__ import annotations

import json
import shlex
from typing import Any

from trainer.common.program import COMMAND
from trainer.config import overrides
from trainer.config.schema import RunConfig, Tick


def train_command(config: RunConfig) -> str:
    """The command as lines for a POSIX shell; it trains exactly this configuration."""
    options = [f"--set {shlex.quote(f'{path}={_text(value)}')}" for path, value in _changes(config)]
    return " \\\n  ".join([f"{COMMAND} train", *options])


def _changes(config: RunConfig) -> list[tuple[str, Any]]:
    """Paths and values of the settings that are not the default."""
    default, changes = RunConfig().to_json(), []
    for part, value in config.to_json().items():
        if part == "modules":
            changes.append((part, [_short(tick) for tick in config.modules]))
        elif isinstance(value, dict):
            changes += [(f"{part}.{key}", item) for key, item in value.items() if item != default[part][key]]
        elif value != default[part]:
            changes.append((part, value))
    return changes


def _short(tick: Tick) -> dict[str, Any]:
    """A tick without the fields that are empty."""
    return {key: item for key, item in vars(tick).items() if item not in (None, "")}


def _text(value: Any) -> str:
    """The value such that `--set` reads it back: a text that looks like JSON is quoted."""
    if isinstance(value, str) and overrides.from_options([f"x={value}"])["x"] == value:
        return value
    return json.dumps(value, ensure_ascii=False)
