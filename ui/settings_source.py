"""Whose settings the page shows: the defaults, those last used in this browser, a run's, or a file's.

The browser keeps the form as it was typed: `sessionStorage` for a tab's own reload, so that two tabs do not overwrite
each other, `localStorage` for new tabs and after a restart of the server. Nothing of it is stored on the server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from trainer.common.errors import Issue, UserError
from trainer.config import validation
from trainer.config.schema import RunConfig
from ui.form import Form, label
from ui.views import HTML

render = HTML.macros("settings_source.html")
KEY = "lab-settings"
MAX_STORED = 200_000
"""Characters; more than any form holds."""
RECALL = f"""(name, revision, pending) => {{
  try {{ pending = sessionStorage.getItem("{KEY}") ?? localStorage.getItem("{KEY}") ?? ""; }} catch {{}}
  return [name, revision, pending];
}}"""
"""Fills the `pending` input of a page that opens with what the browser keeps."""


def remember(paths: Iterable[str]) -> str:
    """JavaScript that keeps the form, whose values come first in this order, and hands all its arguments on."""
    return f"""(...values) => {{
  const paths = {json.dumps(list(paths))};
  const text = JSON.stringify({{ values: Object.fromEntries(paths.map((path, place) => [path, values[place]])) }});
  for (const kept of ["sessionStorage", "localStorage"])
    try {{ window[kept].setItem("{KEY}", text); }} catch {{}}
  return values;
}}"""


@dataclass(frozen=True)
class Source:
    """A configuration that the page was told to show, and where it is from."""

    config: RunConfig
    kind: str
    """"defaults", "browser", "run" or "file"."""
    name: str = ""
    """Of the run or file."""
    run: str = ""
    """Id of the run."""
    ignored: tuple[Issue, ...] = ()
    """Stored settings that cannot be used any more."""

    def encode(self) -> str:
        """As the value of the page's `pending` text."""
        return json.dumps({"config": self.config.to_json(), "kind": self.kind, "name": self.name, "run": self.run})


def parse(text: str | None, form: Form) -> Source | None:
    """What `pending` holds; None if that is nothing, or nothing that can be used."""
    if not isinstance(text, str) or not text or len(text) > MAX_STORED:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("values"), dict):
        config, ignored = form.restore(value["values"])
        return None if config is None else Source(config, "browser", ignored=tuple(ignored))
    try:
        config = validation.from_json(value.get("config"))
    except UserError:
        return None  # only a tampered page sends an unreadable one
    kind, name, run = (str(value.get(key, "")) for key in ("kind", "name", "run"))
    return Source(config, kind, name, run)


def line(source: Source | None, shown: RunConfig, defaults: RunConfig) -> Markup:
    """Whose settings the page shows, with a button that resets them, and which stored ones were ignored."""
    plain = replace(shown, title="")
    same = source is not None and replace(source.config, title="") == plain
    ignored = [_sentence(issue) for issue in source.ignored] if source is not None else []
    if plain == replace(defaults, title=""):
        return render("line", "defaults", False, ignored)
    if source is None or source.config.model.name != shown.model.name or source.kind == "defaults":
        return render("line", "edited", True, ignored)
    if source.kind == "browser":
        return render("line", "last used here", True, ignored)
    kind = "run" if source.kind == "run" else "file"
    return render("line", f"from {kind} {source.name}{'' if same else ', changed'}", True, ignored)


def _sentence(issue: Issue) -> str:
    return f"{label(issue.field) or issue.field}: {issue.problem}"


def values(source: Source) -> list[Any]:
    """Values of `TrainTab.model_inputs` that make the page show it."""
    return [source.config.model.name, source.config.model.revision, source.encode()]
