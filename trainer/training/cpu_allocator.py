"""The C library's heap: what tensors on a CPU free is kept for the next ones.

glibc gives blocks back to the system as they are freed, and the system hands out zeroed pages for the next ones: on a
small model thousands of page faults a step, a tenth of its time. How often depends on what was allocated before.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT = 2**30
_FROM_HEAP = 2**25
"""Bytes up to which a block comes from the heap; the most that glibc takes."""


def keep_freed_memory() -> None:
    """Keep up to a GiB of freed memory; nothing where the C library is another one."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _FROM_HEAP)
        mallopt(_TRIM_THRESHOLD, _KEPT)
