"""The page: builds it, secures it, serves it. No training logic."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.exceptions import RequestValidationError
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from trainer.service.data import MAX_UPLOAD_BYTES
from trainer.service.lab import Lab
from ui import api
from ui.components import load_plotly
from ui.security.auth import Login
from ui.security.gate import SafeBlocks
from ui.security.guard import Guard
from ui.sessions import describe_once
from ui.tabs.compare import CompareTab
from ui.tabs.runs import RunsTab
from ui.tabs.train import TrainTab
from ui.theme import STYLE, theme
from ui.views import HTML

TITLE = "LoRA Module Lab"
DAY = 86400
THREADS = 64
"""For handlers, of which those that wait for an analysis take `analysis_process.PLACES` for each of two processes.
Not 40, for which Gradio would let them share the threads of its own routes."""


def build(lab: Lab) -> gr.Blocks:
    """The whole page for one lab."""
    # Gradio's default folder is shared by all programs and users of the machine
    os.environ["GRADIO_TEMP_DIR"] = str(uploads_dir(lab))
    # the caller is whoever connects: uvicorn would trust any X-Forwarded-For from this machine
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")
    page: gr.Blocks
    with SafeBlocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(DAY, DAY)) as page:
        api.build(lab)  # first, so that its endpoint names are not taken
        gr.HTML(HTML.macros("page.html")("header", TITLE), apply_default_css=False, elem_id="header")
        load_plotly()
        with gr.Tabs(selected="train", elem_id="tabs") as tabs:
            with gr.Tab("Train", id="train", render_children=True):
                train = TrainTab(lab, page)
            with gr.Tab("Runs", id="runs", render_children=True) as tab:
                RunsTab(lab, train, tabs, tab)
            with gr.Tab("Compare", id="compare", render_children=True) as tab:
                CompareTab(lab, train, tabs, tab)
    describe_once(page)
    return page


def launch(lab: Lab, host: str, port: int, password: str = "", hosts: Iterable[str] = ()) -> None:
    """Serve the page until Ctrl+C; prints its address."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    serve(lab, host, port, password, hosts)
    name = f"[{host}]" if ":" in host else host
    lab.start()  # only now: the imports of its processes would delay the first page
    print(f"LoRA Module Lab is running on http://{name}:{port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
    gr.close_all()


def serve(lab: Lab, host: str, port: int, password: str = "", hosts: Iterable[str] = ()) -> Any:
    """Start serving in the background; returns the ASGI app."""
    page = build(lab)
    remove_old(uploads_dir(lab))
    remove_old(lab.settings.exports_dir)
    exports = lab.settings.exports_dir.resolve()
    gr.set_static_paths([exports])  # downloads are served from there without a copy
    page.queue(default_concurrency_limit=4)
    app, _, _ = page.launch(
        server_name=host,
        server_port=port,
        theme=theme(),
        css_paths=[STYLE],
        allowed_paths=[str(exports)],
        app_kwargs={
            "middleware": middleware(lab, password, hosts),
            "exception_handlers": {RequestValidationError: unreadable},
            "docs_url": None,
            "redoc_url": None,
        },
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        share=False,
        quiet=True,
        show_error=False,
        enable_monitoring=False,
        max_file_size=MAX_UPLOAD_BYTES,
        max_threads=THREADS,
        prevent_thread_lock=True,
    )
    return app


def middleware(lab: Lab, password: str, hosts: Iterable[str]) -> list[Middleware]:
    """What every request passes through: the guard, then the login if there is a password."""
    stores = (lab.settings.data_dir, uploads_dir(lab))
    guard = Middleware(Guard, hosts=tuple(hosts), exports_dir=lab.settings.exports_dir, stores=stores)
    return [guard, Middleware(Login, password=password)] if password else [guard]


async def unreadable(_request: Request, _error: Exception) -> Response:
    """The response to a malformed body. FastAPI's own quotes the body, and fails if it is not UTF-8."""
    return PlainTextResponse("This request cannot be read.", status_code=422)


def uploads_dir(lab: Lab) -> Path:
    """Where Gradio puts uploads until they are checked and stored."""
    return (lab.settings.runs_dir / "uploads").resolve()


def remove_old(folder: Path) -> None:
    """Remove uploads and exports that are more than a day old: they have been stored or downloaded."""
    for path in folder.glob("*"):
        if time.time() - path.lstat().st_mtime < DAY:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
