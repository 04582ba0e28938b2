"""Who may talk to the app: pages that it served itself, on this machine.

A web page elsewhere can point its own name at 127.0.0.1 (DNS rebinding) or post to it from another
origin; both carry a foreign name in `Host` or `Origin`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

LOCAL = {"127.0.0.1", "localhost", "::1"}


class LocalOnly:
    """ASGI middleware: refuses requests whose Host or Origin is not this machine."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not is_local(dict(scope["headers"])):
            await _refuse(send)
            return
        await self.app(scope, receive, send)


def is_local(headers: dict[bytes, bytes]) -> bool:
    """Whether both Host and, where there is one, Origin name this machine."""
    host = headers.get(b"host", b"").decode("latin-1")
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin == "null" or (origin and _name(origin) not in LOCAL):
        return False
    return _name(f"//{host}") in LOCAL


def _name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


async def _refuse(send: Any) -> None:
    text = b"This app answers only pages that it served itself on this machine."
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": text})
