"""Why Train refused to start: it stands as long as a page shows the settings that it was pressed with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import gradio as gr

from trainer.common.errors import Issue

MAX_PAGES = 1000
"""Pages to remember, the newest ones; closed pages are not reported."""


class Refusals:
    """The last refusal of each open page. Plans that were asked for before may arrive after it."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, tuple[tuple[Any, ...], list[Issue]]] = OrderedDict()
        """By the page's session: the settings, and what is wrong with their data."""

    def remember(self, request: gr.Request, settings: tuple[Any, ...], issues: Sequence[Issue] = ()) -> None:
        """Train refused these settings. `issues`: those that a plan does not find."""
        self._last[str(request.session_hash)] = (settings, list(issues))
        if len(self._last) > MAX_PAGES:
            self._last.popitem(last=False)

    def forget(self, request: gr.Request) -> None:
        self._last.pop(str(request.session_hash), None)

    def of(self, request: gr.Request, settings: tuple[Any, ...]) -> list[Issue] | None:
        """The issues that a plan does not find; None if Train did not refuse these settings on this page."""
        refused, issues = self._last.get(str(request.session_hash), (None, []))
        return issues if refused == settings else None
