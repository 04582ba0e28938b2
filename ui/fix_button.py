"""The buttons beside a problem: each sets the values that solve it, or shows it; `static/summary.js` sends them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trainer.common.errors import Issue
from trainer.common.formatting import number_text
from ui import form
from ui.labels import CHOICES

ACTIONS = {
    "model.new_tokens": "Add them as new tokens",
    "data.reasoning": "Keep the reasoning",
    "data.answer_end": "End them with the EOS token",
}
"""What the button says for these settings instead of "Set … to …"."""
SET, SKIP, SHOW = "fix", "skip", "show"
"""What a click does: set values; set values and train; open the data sheet at the invalid rows."""


def buttons(issue: Issue, trains: bool = True) -> list[dict[str, str]]:
    """Values for the template's macro `buttons`; none if there is nothing to set. `trains`: invalid rows can be
    skipped and training started at once."""
    if "data.bad_rows" in issue.changes:
        rows = issue.cures[0].result
        skipped = "Skip this row" if rows == "1 row" else f"Skip these {rows}"
        if not trains:
            return [_button(issue.changes, skipped)]
        shown = "Show it" if rows == "1 row" else "Show them"
        return [_button(issue.changes, f"{skipped} and train", SKIP), _button({}, shown, SHOW)]
    if issue.cures:
        return [_button(cure.changes, f"{_named(cure.changes)} → {cure.result}") for cure in issue.cures]
    if not issue.changes:
        return []
    values = " and ".join(f"{form.label(path).lower()} to {_shown(value)}" for path, value in issue.changes.items())
    return [_button(issue.changes, ACTIONS.get(next(iter(issue.changes)), f"Set {values}"))]


def _button(changes: Mapping[str, Any], text: str, do: str = SET) -> dict[str, str]:
    return {"changes": json.dumps(dict(changes)), "text": text, "do": do}


def _named(changes: Mapping[str, Any]) -> str:
    """Such as "Max length 512, quantization 4-bit NF4 (QLoRA)"."""
    parts = [f"{form.label(path)} {_shown(value)}" for path, value in changes.items()]
    return ", ".join([*parts[:1], *(part[0].lower() + part[1:] for part in parts[1:])])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return number_text(value) if isinstance(value, int | float) else CHOICES.get(str(value), str(value))
