"""Progress of a long call, and its cancellation from another thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from trainer.common.errors import UserError

Progress = Callable[[str, float], None]
"""Called as progress(stage, share done)."""


class Cancelled(UserError):
    """A call was cancelled."""

    def __init__(self) -> None:
        super().__init__("The check was broken off.", "", "data")


class ProgressMonitor:
    """Passed into a long call by whoever waits for it: receives its progress, and can cancel it."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress: Progress = progress or (lambda *_: None)
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._interrupt: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Cancel the call; if it has not begun yet, it will not begin."""
        with self._lock:
            self._cancelled.set()
            if self._interrupt is not None:
                self._interrupt()

    def check(self) -> None:
        """Raises Cancelled if the call was cancelled."""
        if self._cancelled.is_set():
            raise Cancelled

    @contextlib.contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Within, `cancel` calls `interrupt`. Raises Cancelled where the call was cancelled before or within."""
        with self._lock:
            self.check()
            self._interrupt = interrupt
        try:
            yield
        finally:
            with self._lock:
                self._interrupt = None
        self.check()
