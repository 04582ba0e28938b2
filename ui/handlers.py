"""How event handlers respond: failures are shown as messages, never as tracebacks."""

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
"""For light handlers without messages: one request, one response."""
QUEUED: dict[str, Any] = {"concurrency_limit": None, **QUIET}
"""For handlers that may show a message, which Gradio only sends through the queue."""

UNEXPECTED = "Something went wrong inside the app. Try again; see the log of the app for details."


def show_errors(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a handler: its failures appear as a message on the page, and its outputs stay unchanged."""

    @functools.wraps(handler)
    def call(*values: Any) -> Any:
        with _errors_as_messages():
            return handler(*values)

    @functools.wraps(handler)
    def iterate(*values: Any) -> Iterator[Any]:
        with _errors_as_messages():
            yield from handler(*values)

    return iterate if inspect.isgeneratorfunction(handler) else call


@contextlib.contextmanager
def _errors_as_messages() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise error_message(str(error)) from error
    except gr.Error:
        raise
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        raise error_message(UNEXPECTED) from error


def event_value(event: gr.EventData, name: str) -> Any:
    """What a script sent with an event; None if it did not, or something else than the page sent it."""
    return event._data.get(name) if isinstance(event._data, dict) else None


def error_message(text: str) -> gr.Error:
    """The message that Gradio shows in the corner of the page; it is HTML, so the text is escaped."""
    return gr.Error(str(escape(text)), duration=12, title="This did not work", print_exception=False)


def inform(text: str) -> None:
    """Show a notice in the corner of the page."""
    gr.Info(str(escape(text)), duration=5)
