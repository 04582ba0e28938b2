"""Which requests the app accepts: only from pages that it served itself, for listed paths, of bounded size.

A web page elsewhere can point its own host name at this machine (DNS rebinding) or post to it from another origin;
both show up as a foreign name in `Host` or `Origin`. Gradio serves more than the page needs: paths that are not in
`SERVED` do not exist here, and the only files are finished zips in the exports folder.

Our own: Starlette's TrustedHost and CORS middleware let posts and uploads from foreign origins through, and limit
neither paths nor sizes.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gradio.route_utils import FnIndexInferError
from starlette.responses import PlainTextResponse

from trainer.common.errors import UserError
from trainer.service.data import MAX_UPLOAD_BYTES, check_room
from ui.handlers import UNEXPECTED

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  compared with, not bound to
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
MAX_BODY_BYTES = 4_000_000
UPLOAD = "/gradio_api/upload"
FILE = "/gradio_api/file="
SERVED = re.compile(
    r"/|/(config|login|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?|/(assets|static|svelte|pwa_icon)/.*"
    r"|/gradio_api/((info|app_id|startup-events|theme\.css|upload|upload_progress|queue/join|queue/data|cancel|reset"
    r"|user|login_check)/?|(run|api|call|heartbeat)/.*|file=.*)"
)
UNREADABLE = (RecursionError, UnicodeError, LookupError, FnIndexInferError)
"""What Gradio raises for a malformed request, before any handler runs."""
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?")


class Refused(Exception):
    """A request that the app rejects: status and message."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Guard:
    """ASGI middleware: rejects foreign hosts and origins, unlisted paths, other files, oversized bodies."""

    def __init__(self, app: App, hosts: Iterable[str], exports_dir: Path, stores: tuple[Path, ...]) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.exports_dir = exports_dir.resolve()
        self.stores = stores
        self.incoming = 0
        """Bytes of uploads in progress."""

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        try:
            if scope["type"] != "http":
                raise Refused(404, "Not found.")
            headers = header_map(scope)
            check_host(headers, self.hosts, scope.get("server"))
            check_origin(scope["method"], headers)
            self.check_path(scope["path"])
            size = check_size(scope, headers)
            uploading = size if scope["path"].rstrip("/") == UPLOAD else 0
            if uploading:
                check_room(self.stores, uploading + self.incoming)
        except UserError as error:
            await PlainTextResponse(str(error), 413)(scope, receive, send)
        except Refused as error:
            await PlainTextResponse(error.text, error.status)(scope, receive, send)
        else:
            self.incoming += uploading
            try:
                await self._pass_on(scope, receive, send)
            finally:
                self.incoming -= uploading

    async def _pass_on(self, scope: Scope, receive: Any, send: Any) -> None:
        """Let the app respond; if it fails before it sends anything, respond with a message instead."""
        started = False

        async def tracked_send(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, tracked_send)
        except Exception as error:
            if started:
                raise
            if isinstance(error, UNREADABLE):
                await PlainTextResponse("This request cannot be read.", 400)(scope, receive, send)
                return
            traceback.print_exc(file=sys.stderr)
            await PlainTextResponse(UNEXPECTED, 500)(scope, receive, send)

    def check_path(self, path: str) -> None:
        """Raise Refused for a path that is not served."""
        if not SERVED.fullmatch(path):
            raise Refused(404, "Not found.")
        if path.startswith(FILE) and not is_export(path.removeprefix(FILE), self.exports_dir):
            raise Refused(403, "Only finished downloads are served.")


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


def check_size(scope: Scope, headers: dict[str, str]) -> int:
    """Bytes of the request's body. Raises Refused if unknown or too many."""
    if scope["method"] in SAFE_METHODS:
        return 0
    length = headers.get("content-length", "")
    if not re.fullmatch(r"\d{1,15}", length):
        raise Refused(411, "The request needs a Content-Length.")
    is_upload = scope["path"].rstrip("/") == UPLOAD
    if int(length) > (MAX_UPLOAD_BYTES if is_upload else MAX_BODY_BYTES):
        raise Refused(413, "The request is too large.")
    return int(length)


def is_export(path: str, exports_dir: Path) -> bool:
    """Whether `path` is a finished zip directly in the exports folder."""
    if "\0" in path or len(path) > 4096:
        return False
    file = Path(path)
    is_plain = file.suffix == ".zip" and not file.name.startswith(".") and not file.is_symlink()
    return is_plain and file.is_file() and file.resolve().parent == exports_dir


def _host_and_port(address: str) -> tuple[str, int | None]:
    """Host name and port of a URL; None for the default ports of http and https."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return "", None
    return parts.hostname or "", None if port in (80, 443) else port
