"""Which callers the app answers at all: those that use one of its own names, and only its own pages.

A web page elsewhere can point its own host name at this machine (DNS rebinding) or post to it from another origin;
both show up as a foreign name in `Host` or `Origin`.

Our own: Starlette's TrustedHost and CORS middleware let posts and uploads from foreign origins through.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  compared with, not bound to
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?")


class Refused(Exception):
    """A request that the app rejects: status and message."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Origins:
    """ASGI middleware: rejects foreign hosts and origins, and everything but HTTP."""

    def __init__(self, app: App, hosts: Iterable[str]) -> None:
        self.app = app
        self.hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = header_map(scope)
            try:
                check_host(headers, self.hosts, scope.get("server"))
                check_origin(scope["method"], headers)
            except Refused as error:
                await PlainTextResponse(error.text, error.status)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def header_map(scope: Scope) -> dict[str, str]:
    """Headers by name; the values of a repeated header are joined, so that they match nothing."""
    headers: dict[str, str] = {}
    for key, value in scope["headers"]:
        name, text = key.decode("latin-1").lower(), value.decode("latin-1")
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    return headers


def check_host(headers: dict[str, str], hosts: frozenset[str], server: Any) -> None:
    """Raise Refused if the Host is not one of the app's names.

    If the app listens on all addresses, the address that the request arrived at counts as one.
    """
    match = _HOST.fullmatch(headers.get("host", "").lower())
    name = (match[1] or match[2]) if match else ""
    arrived = server[0] if server and hosts.intersection(WILDCARDS) else None
    if not name or name in WILDCARDS or not (name in LOCAL or name in hosts or name == arrived):
        raise Refused(400, "The app does not serve this host name. Start it with --allow-host NAME to allow it.")


def check_origin(method: str, headers: dict[str, str]) -> None:
    """Raise Refused for requests from another site's pages."""
    origin = headers.get("origin")
    foreign = origin is not None and _host_and_port(origin) != _host_and_port(f"http://{headers['host']}")
    elsewhere = method not in SAFE_METHODS and headers.get("sec-fetch-site") in ("cross-site", "same-site")
    if foreign or elsewhere:
        raise Refused(403, "This app only accepts requests from its own pages.")


def _host_and_port(address: str) -> tuple[str, int | None]:
    """Host name and port of a URL; None for the default ports of http and https."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return "", None
    return parts.hostname or "", None if port in (80, 443) else port
