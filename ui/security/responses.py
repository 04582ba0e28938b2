"""What every response carries: headers that keep other sites out, and a sentence instead of a traceback."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from gradio.route_utils import FnIndexInferError
from starlette.datastructures import MutableHeaders
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


class Responses:
    """ASGI middleware, the outermost: adds the headers; turns failures into messages."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        response = _Response(scope, receive, send)
        try:
            await self.app(scope, response.receive, response.send)
        except Exception as error:
            if response.started:
                raise
            if isinstance(error, UNREADABLE):
                answer = PlainTextResponse("This request cannot be read.", 400)
            else:
                traceback.print_exc(file=sys.stderr)
                answer = PlainTextResponse(UNEXPECTED, 500)
            await answer(scope, response.receive, response.send)


class _Response:
    """One response, with the headers, and whether the request was read before it."""

    def __init__(self, scope: Scope, receive: Any, send: Any) -> None:
        self._receive, self._send = receive, send
        self.started = False
        names = {name for name, value in scope["headers"] if value != b"0"}
        self._unread = bool(names & {b"content-length", b"transfer-encoding"})

    async def receive(self) -> Any:
        message = await self._receive()
        self._unread = bool(message.get("more_body", False))
        return message

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self._unread:
                headers["connection"] = "close"  # or the server would go on to read a body that nobody wants
            message = {**message, "headers": headers.raw}
        await self._send(message)
