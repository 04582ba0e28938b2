"""How handlers answer. Failures come in words: a handler shows the text of a UserError, and never a traceback."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from markupsafe import escape

from trainer.common.errors import UserError

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
DIRECT: dict[str, Any] = {"queue": False, **QUIET}
"""For light handlers without messages: one request, one answer."""
QUEUED: dict[str, Any] = {"concurrency_limit": None, **QUIET}
"""For handlers that may show a message, which travels with the queue only."""

UNEXPECTED = "Something went wrong inside the app. Try again; the log of the app says what it was."


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose failures appear as a message on the page; its outputs then stay as they are."""

    @functools.wraps(handler)
    def inner(*values: Any) -> Any:
        with _in_words():
            return handler(*values)

    @functools.wraps(handler)
    def inner_steps(*values: Any) -> Iterator[Any]:
        with _in_words():
            yield from handler(*values)

    return inner_steps if inspect.isgeneratorfunction(handler) else inner


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise as_message(str(error)) from error
    except gr.Error:
        raise
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        raise as_message(UNEXPECTED) from error


def as_message(text: str) -> gr.Error:
    """The message that Gradio shows in the corner of the page as HTML, its text escaped."""
    return gr.Error(str(escape(text)), duration=12, title="This did not work", print_exception=False)


def inform(text: str) -> None:
    """Show good news in the corner of the page."""
    gr.Info(str(escape(text)), duration=5)
