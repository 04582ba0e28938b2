"""The button beside a problem that sets the values which solve it; `static/summary.js` sends them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trainer.common.formatting import number_text
from ui import form
from ui.labels import CHOICES

ACTIONS = {
    "model.new_tokens": "Add them as new tokens",
    "data.reasoning": "Keep the reasoning",
    "data.answer_end": "End them with the EOS token",
}
"""What the button says for these settings instead of "Set … to …"."""


def fix_button(changes: Mapping[str, Any]) -> dict[str, str]:
    """Values for the template's macro `button`; empty if there is nothing to set."""
    if not changes:
        return {}
    values = " and ".join(f"{form.label(path).lower()} to {_shown(value)}" for path, value in changes.items())
    text = ACTIONS.get(next(iter(changes)), f"Set {values}")
    return {"changes": json.dumps(dict(changes)), "text": text}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return number_text(value) if isinstance(value, int | float) else CHOICES.get(str(value), str(value))
