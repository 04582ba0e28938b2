"""Views: HTML and figures for the page, from the templates in `templates/`."""

from __future__ import annotations

from pathlib import Path

from trainer.common.templates import Templates

HTML = Templates(Path(__file__).with_name("templates"))
