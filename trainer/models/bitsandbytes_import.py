"""Imports bitsandbytes without Inductor, whose import is a fifth of the time that a worker takes to start.

Import this before PEFT or bitsandbytes. bitsandbytes 0.50 decorates functions with torch.compile, which imports
Inductor at once. On a CPU and on CUDA it has other kernels for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def _as_it_is(function: Callable[..., Any] | None = None, **_options: Any) -> Any:
    return _as_it_is if function is None else function


_compile = torch.compile
torch.compile = _as_it_is  # type: ignore[assignment]
try:
    import bitsandbytes

    assert bitsandbytes
finally:
    torch.compile = _compile
