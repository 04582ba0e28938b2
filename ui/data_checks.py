"""Long checks of data: a page follows how far its check is, and may break it off."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

import gradio as gr

from trainer.common.progress import ProgressMonitor

QUICK = 0.3
"""Seconds within which an answer needs no progress bar."""


class Checks:
    """The checks of all open pages."""

    def __init__(self) -> None:
        self._monitors: dict[str, ProgressMonitor] = {}
        """By the page's session."""

    def follow(
        self, request: gr.Request, ask: Callable[[ProgressMonitor], Any], show: Callable[[str, float], Any]
    ) -> Generator[Any, None, Any]:
        """Yields `show(stage, share)` while `ask` is under way; returns what it returns, raises what it raises.

        It goes on where nobody follows it any more: the browser may be closed.
        """
        told: queue.Queue[tuple[str, float] | None] = queue.Queue()
        monitor = ProgressMonitor(lambda stage, share: told.put((stage, share)))
        answer: Future[Any] = Future()

        def work() -> None:
            try:
                answer.set_result(ask(monitor))
            except BaseException as error:
                answer.set_exception(error)
            told.put(None)

        page = str(request.session_hash)
        self._monitors[page] = monitor
        threading.Thread(target=work, name="data check", daemon=True).start()
        try:
            item = _within(QUICK, told)
            while item is not None:
                yield show(*item)
                item = told.get()
            return answer.result()
        finally:
            if self._monitors.get(page) is monitor:
                del self._monitors[page]

    def cancel(self, request: gr.Request) -> None:
        """Break off the page's check."""
        monitor = self._monitors.get(str(request.session_hash))
        if monitor is not None:
            monitor.cancel()


def _within(seconds: float, told: queue.Queue[tuple[str, float] | None]) -> tuple[str, float] | None:
    """What is told first; after `seconds` of silence, that it has begun."""
    try:
        return told.get(timeout=seconds)
    except queue.Empty:
        return "", 0.0
