"""The page as an ASGI app behind its door, and the server that listens for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi.exceptions import RequestValidationError
from gradio import utils
from gradio.http_server import Server
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from trainer.service.data import MAX_UPLOAD_BYTES
from trainer.service.lab import Lab
from ui import download, run_files
from ui.security.auth import Login
from ui.security.connections import Connection
from ui.security.content_policy import ContentPolicy
from ui.security.folder_names import FolderNames, folder_names
from ui.security.guard import Guard
from ui.security.origins import Origins
from ui.security.responses import Failures, Headers
from ui.security.sessions import Devices, Sessions, Throttle
from ui.theme import STYLE, theme

DEVICE_KEY = ".device-key"
CLOSE_SECONDS = 1
"""Seconds for open requests when the app ends; an open page always has some that would not end by themselves."""


def make_app(page: gr.Blocks, lab: Lab, password: str, hosts: Iterable[str]) -> Any:
    """The ASGI app of the page: every request passes host and origin, login, and guard before it reaches Gradio."""
    exports = lab.settings.exports_dir.resolve()
    gr.set_static_paths([exports])  # downloads are served from there without a copy
    names = folder_names(lab.settings, Path(utils.get_upload_folder()))
    gradio_app = gr.mount_gradio_app(
        Starlette(routes=[download.route(page), *run_files.routes(lab, names)]),
        page,
        path="/",
        theme=theme(),
        css_paths=[STYLE],
        allowed_paths=[str(exports)],
        app_kwargs={
            # inside Gradio's compression
            "middleware": [Middleware(Failures), Middleware(FolderNames, names=names), Middleware(ContentPolicy)],
            "exception_handlers": {RequestValidationError: _unreadable},
            "docs_url": None,
            "redoc_url": None,
        },
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        max_file_size=MAX_UPLOAD_BYTES,
    )
    app: Any = Guard(gradio_app, exports, (lab.settings.data_dir, lab.settings.uploads_dir))
    if password:
        app = Login(app, password, Sessions(), Devices(lab.settings.runs_dir / DEVICE_KEY), Throttle())
    return Headers(Failures(Origins(app, hosts)))


def start(app: Any, host: str, port: int) -> Any:
    """Serve `app` in the background, until `stop`."""
    config = uvicorn.Config(
        app,
        host,
        port,
        http=Connection,
        log_level="warning",
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=CLOSE_SECONDS,
        # the caller is whoever connects: uvicorn would trust any X-Forwarded-For from this machine
        forwarded_allow_ips=os.environ.get("FORWARDED_ALLOW_IPS", ""),
    )
    server: Any = Server(config)
    server.run_in_thread()
    return server


def stop(server: Any) -> None:
    """Stop serving. The streams of open pages, which do not end by themselves, are canceled."""
    logging.getLogger("uvicorn.error").disabled = True  # it would report that as an error
    server.close()


async def _unreadable(_request: Request, _error: Exception) -> Response:
    """The response to a malformed body. FastAPI's own quotes the body, and fails if it is not UTF-8."""
    return PlainTextResponse("This request cannot be read.", status_code=422)
