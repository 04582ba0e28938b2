"""Reads a saved adapter's adapter_config.json, PEFT's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.common import bounded_files
from trainer.common.bounded_files import DamagedFile
from trainer.common.errors import UserError

CONFIG = "adapter_config.json"
MAX_BYTES = 2**25
RESUME = "Resume the run, which saves a new one."


def read_settings(path: Path) -> dict[str, Any]:
    """An adapter's settings. Raises UserError if they are damaged."""
    try:
        value = bounded_files.read_json(path, MAX_BYTES)
    except DamagedFile as error:
        raise UserError(f"The adapter's {error.problem}", RESUME, "data") from error
    if not isinstance(value, dict) or not isinstance(value.get("r"), int) or "target_modules" not in value:
        raise UserError(f"The adapter's {path.name} is damaged.", RESUME, "data")
    return value
