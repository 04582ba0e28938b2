"""Progress of a long call, and its cancellation from another thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from trainer.common.errors import UserError

Progress = Callable[[str, float], None]
"""Called as progress(stage, share done)."""


class Canceled(UserError):
    """A call was canceled."""

    def __init__(self) -> None:
        super().__init__("The check was canceled.", "", "data")


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
        """Raises Canceled if the call was canceled."""
        if self._cancelled.is_set():
            raise Canceled

    @contextlib.contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Within, `cancel` calls `interrupt`. Raises Canceled where the call was canceled before or within."""
        with self._lock:
            self.check()
            self._interrupt = interrupt
        try:
            yield
        finally:
            with self._lock:
                self._interrupt = None
        self.check()
