"""Which requests reach Gradio: for listed paths, with bodies of bounded size that arrive without long pauses, and of
the calls that may wait for an analysis, only so many at once.

Gradio serves more than the page needs: paths that are not in `SERVED` do not exist here, and the only files are
finished zips in the exports folder.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse

from trainer.common.errors import UserError
from trainer.service.data import MAX_UPLOAD_BYTES, check_room
from ui.security.bodies import BodyReader
from ui.security.folder_names import EXPORTS
from ui.security.origins import SAFE_METHODS, App, Refused, Scope, header_map

MAX_BODY_BYTES = 4_000_000
UPLOAD = "/gradio_api/upload"
FILE = "/gradio_api/file="
SERVED = re.compile(
    r"/|/(config|login|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?|/(assets|static|svelte|pwa_icon)/.*"
    r"|/prepare/[a-z-]{1,40}|/runs/[0-9a-f-]{22}/(log|log\.txt|config/[a-z]{1,20})"
    r"|/gradio_api/((info|app_id|theme\.css|upload|upload_progress|queue/join|queue/data|cancel|reset"
    r"|user|login_check)/?|(run|api|call|heartbeat)/.*|file=.*)"
)
ANALYZING = re.compile(r"/gradio_api/(run|api|call)/(modules|plan|train|scenarios)/?")
"""Endpoints for programs that may wait for the analysis of a model or data."""
MAX_ANALYZING = 40
"""As many as may wait for the two analysis processes. Gradio spends 10 ms of the event loop on each."""


class Guard:
    """ASGI middleware: rejects unlisted paths, other files, too many calls, and bodies without a bound."""

    def __init__(self, app: App, exports_dir: Path, stores: tuple[Path, ...]) -> None:
        """`stores`: the folders that share the quota of uploaded data."""
        self.app = app
        self.exports_dir = exports_dir.resolve()
        self.stores = stores
        self._analyzing = 0
        """Calls of ANALYZING in progress."""

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            scope = self.checked_path(scope)
            size = check_size(scope, header_map(scope))
            is_upload = scope["path"].rstrip("/") == UPLOAD
            if is_upload:
                check_room(self.stores, size)
            if self._analyzing >= MAX_ANALYZING and _may_analyze(scope):
                raise Refused(503, f"The app is busy with {MAX_ANALYZING} calls. Try again in a moment.")
        except UserError as error:
            await PlainTextResponse(str(error), 413)(scope, receive, send)
        except Refused as error:
            await PlainTextResponse(error.text, error.status)(scope, receive, send)
        else:
            body = BodyReader(receive, size, self.stores if is_upload else ())
            with self._counted(scope):
                await body.respond(self.app, scope, send)

    @contextlib.contextmanager
    def _counted(self, scope: Scope) -> Iterator[None]:
        counts = _may_analyze(scope)
        self._analyzing += counts
        try:
            yield
        finally:
            self._analyzing -= counts

    def checked_path(self, scope: Scope) -> Scope:
        """The scope, with the real path of a download. Raises Refused for a path that is not served."""
        path: str = scope["path"]
        if not SERVED.fullmatch(path):
            raise Refused(404, "Not found.")
        if not path.startswith(FILE):
            return scope
        file = export(path.removeprefix(FILE), self.exports_dir)
        if file is None:
            raise Refused(403, "Only finished downloads are served.")
        return {**scope, "path": f"{FILE}{file}"}


def _may_analyze(scope: Scope) -> bool:
    return scope["method"] == "POST" and ANALYZING.fullmatch(scope["path"]) is not None


def check_size(scope: Scope, headers: dict[str, str]) -> int:
    """Bytes of the request's body. Raises Refused if unknown or too many."""
    if scope["method"] in SAFE_METHODS:
        return 0
    length = headers.get("content-length", "")
    if not re.fullmatch(r"\d{1,15}", length) or "transfer-encoding" in headers:
        raise Refused(411, "The request needs a Content-Length.")
    is_upload = scope["path"].rstrip("/") == UPLOAD
    if int(length) > (MAX_UPLOAD_BYTES if is_upload else MAX_BODY_BYTES):
        raise Refused(413, "The request is too large.")
    return int(length)


def export(path: str, exports_dir: Path) -> Path | None:
    """The finished zip that the page calls `exports/NAME.zip`; None if it is anything else."""
    folder, _, name = path.partition("/")
    if folder != EXPORTS or not re.fullmatch(r"[^/\\\0.][^/\\\0]{0,250}\.zip", name):
        return None
    file = exports_dir / name
    return file if file.is_file() and not file.is_symlink() else None
