"""Foreign text, made safe for the page. Numbers are written by `trainer.common.formatting`."""

from __future__ import annotations

import html


def escape(text: object) -> str:
    """Foreign text made safe for HTML, attributes included."""
    return html.escape(str(text), quote=True)
