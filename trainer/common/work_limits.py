"""Limits on the CPU time and the memory of one piece of work on untrusted input.

The kernel keeps both: a timer interrupts Python code, and an allocation beyond the limit fails. Neither costs
anything while the work stays within them.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")
PAGE = resource.getpagesize()
REPEATED = 1.0
"""Seconds after which the interruption is repeated: an exception that is raised in a finalizer is lost."""
PATIENCE = 3
"""A single operation of the interpreter cannot be interrupted. After so many times its limit, the kernel ends the
process with SIGVTALRM: comparing two lists that hold each other many times over would take longer than a life."""


class Exceeded(Exception):
    """A piece of work went beyond a limit, which is named."""

    def __init__(self, limit: Literal["time", "memory"]) -> None:
        super().__init__(limit)
        self.limit = limit


class _TimeUp(BaseException):
    """Raised by the timer, at any point of the work."""


def limited(work: Callable[[], T], memory: int, seconds: float = 0) -> T:
    """The result of `work`, which may take `memory` bytes more than are in use, and `seconds` of CPU time if any.

    The time limit holds in the main thread, the memory limit on Linux. Raises Exceeded.
    """
    try:
        with _memory(memory), _time(seconds):
            return work()
    except _TimeUp:
        limit: Literal["time", "memory"] = "time"
    except MemoryError:
        limit = "memory"
    raise Exceeded(limit)  # here, so that it does not keep what the work had made


@contextlib.contextmanager
def _memory(most: int) -> Iterator[None]:
    if not sys.platform.startswith("linux"):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [used_bytes() + most, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def used_bytes() -> int:
    """Address space of this process, by which RLIMIT_AS is measured."""
    return int(Path("/proc/self/statm").read_bytes().split(maxsplit=1)[0]) * PAGE


@contextlib.contextmanager
def _time(seconds: float) -> Iterator[None]:
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGPROF, _interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE * seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds, REPEATED)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGPROF, before)


def _interrupt(*_: Any) -> None:
    raise _TimeUp
