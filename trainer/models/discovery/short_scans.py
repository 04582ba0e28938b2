"""Keeps scans over two tokens from padding to long chunks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel


@contextmanager
def short_chunks(model: PreTrainedModel) -> Iterator[None]:
    """Let linear attention and state-space scans work in chunks of 4 tokens.

    They pad two tokens to a chunk of 64 or 256, which costs minutes and changes no result.
    """
    for module in model.modules():
        if isinstance(getattr(module, "chunk_size", None), int):
            module.chunk_size = 4
    functions = map(inspect.unwrap, filter(inspect.isfunction, vars(sys.modules[type(model).__module__]).values()))
    scans = {f for f in functions if "chunk_size" in f.__code__.co_varnames[: f.__code__.co_argcount]}
    kept = {function: function.__defaults__ for function in scans}
    for function in scans:
        positional = function.__code__.co_varnames[: function.__code__.co_argcount]
        defaults = function.__defaults__ or ()
        named = zip(positional[len(positional) - len(defaults) :], defaults, strict=True)
        function.__defaults__ = tuple(4 if name == "chunk_size" else value for name, value in named)
    try:
        yield
    finally:
        for function in scans:
            function.__defaults__ = kept[function]
