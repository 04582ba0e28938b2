"""Keeps a failed measurement from ending the training that it is about."""

from __future__ import annotations

from collections.abc import Callable

import torch

from trainer.common.errors import first_line


def problem_of(measure: Callable[[], None]) -> str:
    """What went wrong in `measure`, whatever a model, a kernel or a disk may raise; empty if nothing did."""
    try:
        measure()
    except Exception as error:
        problem = f"{type(error).__name__}: {first_line(error)}"
    else:
        return ""
    torch.cuda.empty_cache()  # outside the handler, whose exception holds the tensors of the pass that failed
    return problem
