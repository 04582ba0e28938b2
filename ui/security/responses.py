"""What every response carries: headers that keep other sites out, and a sentence instead of a traceback."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from gradio.route_utils import FnIndexInferError
from starlette.datastructures import MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.responses import PlainTextResponse

from ui.handlers import UNEXPECTED
from ui.security.origins import App, Scope

UNREADABLE = (RecursionError, UnicodeError, LookupError, FnIndexInferError)
"""What Gradio raises for a malformed request, before any handler runs."""
NO_CONTENT = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The policy of everything but the page: it may load nothing. The login page has its style sheet inside."""
HEADERS = {
    "content-security-policy": NO_CONTENT,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # `no-referrer` would make the login form's origin `null`
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Failures:
    """ASGI middleware: a message in place of whatever failed before a response began.

    Needed around the door, and within Gradio's app, which would send its own page and log all details.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        started = False

        async def tracked_send(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, tracked_send)
        except Exception as error:
            if started or scope["type"] != "http" or isinstance(error, MultiPartException):
                raise
            if isinstance(error, UNREADABLE):
                await PlainTextResponse("This request cannot be read.", 400)(scope, receive, send)
                return
            traceback.print_exc(file=sys.stderr)
            await PlainTextResponse(UNEXPECTED, 500)(scope, receive, send)


class Headers:
    """ASGI middleware, the outermost: adds the headers, and ends connections whose request was not read."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        names = {name for name, value in scope["headers"] if value != b"0"}
        unread = bool(names & {b"content-length", b"transfer-encoding"})

        async def tracked_receive() -> Any:
            nonlocal unread
            message = await receive()
            unread = bool(message.get("more_body", False))
            return message

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if unread:
                    headers["connection"] = "close"  # or the server would go on to read a body that nobody wants
                message = {**message, "headers": headers.raw}
            await send(message)

        await self.app(scope, tracked_receive, send_with_headers)
