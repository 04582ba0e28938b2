"""Progress and cancellation of a long call."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from trainer.common.errors import UserError

Progress = Callable[[str, float], None]
"""Called as `progress(stage, share)`, with the share that is done."""


class Canceled(UserError):
    """A call was canceled."""

    def __init__(self) -> None:
        super().__init__("The check was canceled.", "", "data")


class ProgressMonitor:
    """Passed into a long call by its caller: receives progress, and can cancel it from another thread."""

    def __init__(self, progress: Progress | None = None, gone: Callable[[], bool] = lambda: False) -> None:
        """`gone`: whether nobody waits for the call any more, which cancels it as long as it has not started."""
        self.progress: Progress = progress or (lambda *_: None)
        self._gone = gone
        self._canceled = threading.Event()
        self._lock = threading.Lock()
        self._interrupt: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Cancel the call; if it has not started yet, it will not start."""
        with self._lock:
            self._canceled.set()
            if self._interrupt is not None:
                self._interrupt()

    @property
    def canceled(self) -> bool:
        return self._canceled.is_set()

    def check_waiting(self) -> None:
        """For a call that has not started yet: raises Canceled also if nobody waits for it any more."""
        if self._gone():
            raise Canceled
        self.check()

    def check(self) -> None:
        """Raises Canceled if the call was canceled."""
        if self.canceled:
            raise Canceled

    @contextlib.contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Within the context, `cancel` calls `interrupt`. Raises Canceled if the call was canceled by its end."""
        with self._lock:
            self.check()
            self._interrupt = interrupt
        try:
            yield
        finally:
            with self._lock:
                self._interrupt = None
        self.check()
