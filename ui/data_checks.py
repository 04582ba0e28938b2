"""Long checks of data: a page follows how far its check is, and may break it off."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

import gradio as gr

from trainer.execution.analysis_process import Watcher

QUICK = 0.3
"""Seconds within which an answer needs no progress bar."""


class Checks:
    """The checks of all open pages."""

    def __init__(self) -> None:
        self._watchers: dict[str, Watcher] = {}
        """By the page's session."""

    def follow(
        self, request: gr.Request, ask: Callable[[Watcher], Any], show: Callable[[str, float], Any]
    ) -> Generator[Any, None, Any]:
        """Yields `show(stage, share)` while `ask` is under way; returns what it returns, raises what it raises.

        It goes on where nobody follows it any more: the browser may be closed.
        """
        told: queue.Queue[tuple[str, float] | None] = queue.Queue()
        watcher = Watcher(lambda stage, share: told.put((stage, share)))
        answer: Future[Any] = Future()

        def work() -> None:
            try:
                answer.set_result(ask(watcher))
            except BaseException as error:
                answer.set_exception(error)
            told.put(None)

        page = str(request.session_hash)
        self._watchers[page] = watcher
        threading.Thread(target=work, name="data check", daemon=True).start()
        try:
            item = _within(QUICK, told)
            while item is not None:
                yield show(*item)
                item = told.get()
            return answer.result()
        finally:
            if self._watchers.get(page) is watcher:
                del self._watchers[page]

    def cancel(self, request: gr.Request) -> None:
        """Break off the page's check."""
        watcher = self._watchers.get(str(request.session_hash))
        if watcher is not None:
            watcher.cancel()


def _within(seconds: float, told: queue.Queue[tuple[str, float] | None]) -> tuple[str, float] | None:
    """What is told first; after `seconds` of silence, that it has begun."""
    try:
        return told.get(timeout=seconds)
    except queue.Empty:
        return "", 0.0
