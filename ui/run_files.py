"""Routes for a run's configuration and log: plain GETs, which also work on a page that Gradio has forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from trainer import service
from trainer.common.errors import UserError
from trainer.service.lab import Lab
from ui.security.folder_names import FolderNames

DEFAULT_LINES = 200
MAX_TEXT = 200


def routes(lab: Lab, names: Mapping[Path, str]) -> list[Route]:
    """The routes; `names`: folders whose paths are replaced in what they send."""
    short_names = FolderNames(_nothing, names)

    def configuration(request: Request) -> Response:
        run_id, form = request.path_params["run"], request.path_params["form"]
        text = service.run_files.configuration(lab, run_id, form)
        return PlainTextResponse(text, headers=_attachment(request, run_id, form))

    def log(request: Request) -> Response:
        text = request.query_params.get("text", "")[:MAX_TEXT]
        lines = request.query_params.get("lines", "")
        count = int(lines) if lines.isdecimal() and len(lines) < 6 else DEFAULT_LINES
        found = service.run_files.log(lab, request.path_params["run"], text, max(1, count))
        return JSONResponse(vars(found))

    def whole_log(request: Request) -> Response:
        run_id = request.path_params["run"]
        chunks = (short_names.rename(text.encode()) for text in service.run_files.log_text(lab, run_id))
        headers = {"content-disposition": f'attachment; filename="{service.run_files.file_name(run_id, "log")}"'}
        return StreamingResponse(chunks, media_type="application/octet-stream", headers=headers)

    handlers: Mapping[str, Callable[[Request], Response]] = {
        "/runs/{run}/config/{form}": configuration,
        "/runs/{run}/log": log,
        "/runs/{run}/log.txt": whole_log,
    }
    middleware = [Middleware(FolderNames, names=names)]
    return [Route(path, _answer(handler), middleware=middleware) for path, handler in handlers.items()]


def _answer(handler: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """The handler; a UserError becomes a sentence with status 404."""

    def call(request: Request) -> Response:
        try:
            return handler(request)
        except UserError as error:
            return PlainTextResponse(str(error), 404)

    return call


def _attachment(request: Request, run_id: str, form: str) -> dict[str, str]:
    if "download" not in request.query_params:
        return {}
    return {"content-disposition": f'attachment; filename="{service.run_files.file_name(run_id, form)}"'}


async def _nothing(*_: object) -> None:
    """The app inside FolderNames, where only its names are used."""
