"""How handlers answer. Failures come in words: a handler shows the text of a UserError, and never a traceback."""

from __future__ import annotations

import functools
import html
import sys
import traceback
from collections.abc import Callable
from typing import Any

import gradio as gr

from trainer.errors import UserError

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
        try:
            return handler(*values)
        except UserError as error:
            raise as_message(str(error)) from error
        except gr.Error:
            raise
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            raise as_message(UNEXPECTED) from error

    return inner


def as_message(text: str) -> gr.Error:
    """The message that Gradio shows in the corner of the page, its text made safe."""
    return gr.Error(html.escape(text), duration=12, title="This did not work", print_exception=False)
