"""Who may ask what of the app: pages that it served itself, a short list of paths, requests of bounded size.

A web page elsewhere can point its own name at this machine (DNS rebinding) or post to it from another
origin; both carry a foreign name in `Host` or `Origin`. Gradio serves more than the page needs: what is
not listed in `SERVED` does not exist here, and of files only finished zips of the exports folder do.

Our own: Starlette's TrustedHost and CORS middleware let foreign origins' posts and uploads through, and limit
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
READING = ("GET", "HEAD", "OPTIONS")
MAX_BODY_BYTES = 4_000_000
UPLOAD = "/gradio_api/upload"
FILE = "/gradio_api/file="
SERVED = re.compile(
    r"/|/(config|login|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?|/(assets|static|svelte|pwa_icon)/.*"
    r"|/gradio_api/((info|app_id|startup-events|theme\.css|upload|upload_progress|queue/join|queue/data|cancel|reset"
    r"|user|login_check)/?|(run|api|call|heartbeat)/.*|file=.*)"
)
UNREADABLE = (RecursionError, UnicodeError, LookupError, FnIndexInferError)
"""What Gradio raises before any handler runs: the request is no good."""
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?")


class Refused(Exception):
    """A request that the app does not answer: status and one sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Guard:
    """ASGI middleware: refuses foreign hosts and origins, unlisted paths, other files, oversized bodies."""

    def __init__(self, app: App, hosts: Iterable[str], exports_dir: Path, stores: tuple[Path, ...]) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.exports_dir = exports_dir.resolve()
        self.stores = stores
        self.incoming = 0
        """Bytes of uploads under way."""

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        try:
            if scope["type"] != "http":
                raise Refused(404, "There is nothing here.")
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
        """Let the app answer; where it fails before its first word, answer in its place, in a sentence."""
        started = False

        async def noting(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception as error:
            if started:
                raise
            if isinstance(error, UNREADABLE):
                await PlainTextResponse("This request cannot be read.", 400)(scope, receive, send)
                return
            traceback.print_exc(file=sys.stderr)
            await PlainTextResponse(UNEXPECTED, 500)(scope, receive, send)

    def check_path(self, path: str) -> None:
        """Refuse what is not served. Raises Refused."""
        if not SERVED.fullmatch(path):
            raise Refused(404, "There is nothing here.")
        if path.startswith(FILE) and not is_export(path.removeprefix(FILE), self.exports_dir):
            raise Refused(403, "Only finished downloads are served.")


def header_map(scope: Scope) -> dict[str, str]:
    """Headers by name; of a header sent twice, both values in one, which then matches nothing."""
    found: dict[str, str] = {}
    for key, value in scope["headers"]:
        name, text = key.decode("latin-1").lower(), value.decode("latin-1")
        found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def check_host(headers: dict[str, str], hosts: frozenset[str], server: Any) -> None:
    """Refuse a Host that is none of this app's names. Raises Refused.

    An app that listens on every address is known by the one at which the request came in.
    """
    match = _HOST.fullmatch(headers.get("host", "").lower())
    name = (match[1] or match[2]) if match else ""
    arrived = server[0] if server and hosts.intersection(WILDCARDS) else None
    if not name or name in WILDCARDS or not (name in LOCAL or name in hosts or name == arrived):
        raise Refused(400, "This name is not one of the app's. Start it with --allow-host NAME to be known by it.")


def check_origin(method: str, headers: dict[str, str]) -> None:
    """Refuse what another site's page sends. Raises Refused."""
    origin = headers.get("origin")
    foreign = origin is not None and _place(origin) != _place(f"http://{headers['host']}")
    elsewhere = method not in READING and headers.get("sec-fetch-site") in ("cross-site", "same-site")
    if foreign or elsewhere:
        raise Refused(403, "This app answers only the pages that it served itself.")


def check_size(scope: Scope, headers: dict[str, str]) -> int:
    """Bytes that the request's body has. Raises Refused where they are unknown or too many."""
    if scope["method"] in READING:
        return 0
    length = headers.get("content-length", "")
    if not re.fullmatch(r"\d{1,15}", length):
        raise Refused(411, "The request must say how long it is.")
    is_upload = scope["path"].rstrip("/") == UPLOAD
    if int(length) > (MAX_UPLOAD_BYTES if is_upload else MAX_BODY_BYTES):
        raise Refused(413, "This is larger than the app takes.")
    return int(length)


def is_export(path: str, exports_dir: Path) -> bool:
    """Whether `path` is a whole zip that lies in the exports folder itself."""
    if "\0" in path or len(path) > 4096:
        return False
    file = Path(path)
    is_plain = file.suffix == ".zip" and not file.name.startswith(".") and not file.is_symlink()
    return is_plain and file.is_file() and file.resolve().parent == exports_dir


def _place(address: str) -> tuple[str, int | None]:
    """Name and port of an address; the ports of the web's schemes count as none."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return "", None
    return parts.hostname or "", None if port in (80, 443) else port
