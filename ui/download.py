"""Downloads: a button asks the app to prepare a file, follows how far that is, and hands the file to the browser.

The request is a plain one of our own, not a Gradio event: it needs no session of the page, so that it works on a page
that was open while the app restarted. The prepared zip is then fetched like any other (`guard.export`).
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from trainer.common.errors import UserError
from trainer.common.progress import ProgressMonitor
from ui.handlers import UNEXPECTED
from ui.security.folder_names import EXPORTS

Prepare = Callable[[Any, ProgressMonitor], Path]
"""Makes the file for the value of a component. Raises UserError, and Canceled if the monitor cancels it."""
PATH = "/prepare"
MAX_AT_ONCE = 2
"""Files that are prepared at the same time; others wait."""
FOLLOW_SECONDS = 0.25
MAX_VALUE = 100_000
"""Characters of a component's value."""


def wire(button: gr.Button, prepare: Prepare, source: gr.blocks.Block, name: str) -> None:
    """On a click, `prepare(source's value, monitor)` makes a file in the exports folder, and the browser saves it."""
    preparations(Context.root_block)[name] = prepare
    button.click(None, source, None, js=f"(value) => window.prepareDownload('{button.elem_id}', '{name}', value)")


def preparations(page: Any) -> dict[str, Prepare]:
    """What the buttons of a page prepare, by the name of their download."""
    if not hasattr(page, "preparations"):
        page.preparations = {}
    found: dict[str, Prepare] = page.preparations
    return found


def route(page: Any) -> Route:
    """The route that prepares a file: POST with the component's value as JSON.

    The response is a stream of JSON lines: `{"share": 0.4}` while it is being made, then `{"file": …, "name": …}` or
    `{"error": …}`. Closing it cancels the preparation.
    """
    known, pool = preparations(page), ThreadPoolExecutor(MAX_AT_ONCE, "download")

    async def prepare(request: Request) -> Response:
        action = known.get(request.path_params["name"])
        value = _value(await request.body())
        if action is None or value is None:
            return PlainTextResponse("This download does not exist. Reload the page.", 404)
        return StreamingResponse(_lines(action, value, pool), media_type="text/event-stream")

    return Route(f"{PATH}/{{name}}", prepare, methods=["POST"])


def _value(body: bytes) -> str | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, str) and len(value) <= MAX_VALUE else None


async def _lines(prepare: Prepare, value: str, pool: ThreadPoolExecutor) -> AsyncIterator[str]:
    share = 0.0

    def follow(_stage: str, done: float) -> None:
        nonlocal share
        share = done

    monitor = ProgressMonitor(follow)
    made = asyncio.wrap_future(pool.submit(_made, prepare, value, monitor))
    try:
        while not (await asyncio.wait({made}, timeout=FOLLOW_SECONDS))[0]:
            yield json.dumps({"share": round(share, 3)}) + "\n"
        yield json.dumps(made.result()) + "\n"
    finally:
        monitor.cancel()  # nobody waits for it any more


def _made(prepare: Prepare, value: str, monitor: ProgressMonitor) -> dict[str, Any]:
    """The last line of the response."""
    try:
        monitor.check()
        file = prepare(value, monitor)
        return {"file": f"{EXPORTS}/{file.name}", "name": file.name, "size": file.stat().st_size}
    except UserError as error:
        return {"error": str(error)}
    except gr.Error as error:
        return {"error": html.unescape(error.message)}
    except Exception:
        with contextlib.suppress(OSError):
            traceback.print_exc(file=sys.stderr)
        return {"error": UNEXPECTED}
