"""How torch allocates a GPU's memory: set before torch is imported."""

from __future__ import annotations

import os

_NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""torch reads the first one that is set; the others are its older names."""


def environment() -> dict[str, str]:
    """Variables that keep memory from fragmenting where batches differ in shape; none if the user has set their own.

    Segments that grow (torch's `expandable_segments`) leave no gaps that are too small for the next batch.
    """
    return {} if any(name in os.environ for name in _NAMES) else {_NAMES[0]: "expandable_segments:True"}
