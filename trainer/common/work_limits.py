"""Limits on the CPU time and the memory of one piece of work on untrusted input.

The kernel keeps both: a timer interrupts Python code, and an allocation beyond the limit fails. Neither costs
anything while the work stays within them.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
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
    timed = seconds > 0 and threading.current_thread() is threading.main_thread()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        try:
            _limit_memory(memory, soft, hard)
            if timed:
                _start_timer(seconds)
            return work()
        finally:
            if timed:
                _stop_timer()
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    except _TimeUp:
        limit: Literal["time", "memory"] = "time"
    except MemoryError:
        limit = "memory"
    raise Exceeded(limit)  # here, so that it does not keep what the work had made


def _limit_memory(most: int, soft: int, hard: int) -> None:
    """Lower the limit on the address space, which all threads share: `most` leaves the others room."""
    if sys.platform.startswith("linux"):
        limits = [used_bytes() + most, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
        resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))


def used_bytes() -> int:
    """Address space of this process, by which RLIMIT_AS is measured."""
    file = os.open("/proc/self/statm", os.O_RDONLY)  # five times as quick as with a file object: once a rendering
    try:
        return int(os.read(file, 32).split(b" ", 1)[0]) * PAGE
    finally:
        os.close(file)


def _start_timer(seconds: float) -> None:
    _install()
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE * seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds, REPEATED)


def _stop_timer() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)


@lru_cache(maxsize=1)
def _install() -> None:
    signal.signal(signal.SIGPROF, _interrupt)


def _interrupt(*_: Any) -> None:
    if signal.getitimer(signal.ITIMER_PROF)[1]:  # else the work ended in time, and this signal came late
        raise _TimeUp
