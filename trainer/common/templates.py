"""Text from Jinja2 templates. In HTML, all values are escaped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from trainer.common import formatting

FILTERS: dict[str, Callable[..., str]] = {
    "count": formatting.count,
    "decimals": formatting.decimals,
    "duration": formatting.duration,
    "learning_rate": formatting.learning_rate,
    "loss": formatting.loss,
    "percent": formatting.percent,
    "size": formatting.size,
    "thousands": "{:,}".format,
}


class Templates:
    """A folder of templates, each compiled once, on first use. Undefined names raise."""

    def __init__(self, folder: Path, **options: Any) -> None:
        """`options`: further options of jinja2.Environment."""
        self.environment = Environment(
            loader=FileSystemLoader(folder),
            autoescape=select_autoescape(("html",)),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            **options,
        )
        self.environment.filters |= FILTERS

    def render(self, name: str, **values: Any) -> str:
        """The whole template as text."""
        return self.environment.get_template(name).render(values)

    def macros(self, name: str) -> Callable[..., Markup]:
        """A function that calls a macro of the template by its name, with the macro's arguments."""

        def call(macro: str, *values: Any, **named: Any) -> Markup:
            return Markup(getattr(self.environment.get_template(name).module, macro)(*values, **named))  # noqa: S704

        return call
