"""The callers of an analysis process: a bounded number waits, and callers with the same request share one answer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from trainer.common.errors import UserError
from trainer.common.progress import Canceled, ProgressMonitor

POLL = 0.2
"""Seconds after which a waiting caller looks whether it was canceled."""


class WaitingLine:
    """Bounds how many threads of the app wait for a process that does one thing at a time."""

    def __init__(self, places: int) -> None:
        self._places = self._free = places
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        """Held by the caller whose request is being answered."""
        self._answers: dict[str, Future[Any]] = {}
        """What callers wait for, by request."""

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Take a place. Raises UserError if all are taken."""
        with self._lock:
            if not self._free:
                raise UserError(
                    f"The app is busy: {self._places} requests for models or data are waiting.",
                    "Try again in a moment.",
                )
            self._free -= 1
        try:
            yield
        finally:
            with self._lock:
                self._free += 1

    def shared(self, request: str, monitor: ProgressMonitor, answer: Callable[[], Any]) -> Any:
        """What `answer` returns or raises, computed once for all who send the same request meanwhile.

        Raises Canceled if `monitor` cancels this caller; another one then takes over.
        """
        while True:
            monitor.check_waiting()
            with self._lock:
                pending = self._answers.get(request)
                if pending is None:
                    mine = self._answers[request] = Future()
                    break
            with contextlib.suppress(Canceled):  # that of the caller who computed it
                return _result(pending, monitor)
        try:
            mine.set_result(answer())
        except BaseException as error:
            mine.set_exception(error)
        finally:
            with self._lock:
                del self._answers[request]
        return mine.result()

    @contextlib.contextmanager
    def turn(self, monitor: ProgressMonitor) -> Iterator[None]:
        """Wait until earlier requests have been answered. Raises Canceled."""
        while not self._turn.acquire(timeout=POLL):
            monitor.check_waiting()
            monitor.progress("waiting", 0.0)
        try:
            yield
        finally:
            self._turn.release()

    @contextlib.contextmanager
    def turn_if_free(self) -> Iterator[bool]:
        """Whether nothing is being answered; if so, nothing will be until the context ends."""
        free = self._turn.acquire(blocking=False)
        try:
            yield free
        finally:
            if free:
                self._turn.release()


def _result(pending: Future[Any], monitor: ProgressMonitor) -> Any:
    while True:
        try:
            return pending.result(timeout=POLL)
        except TimeoutError:
            if pending.done():  # the answer itself was a TimeoutError
                raise
            monitor.check_waiting()
            monitor.progress("waiting", 0.0)
