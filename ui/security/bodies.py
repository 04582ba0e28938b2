"""Bodies of requests: they arrive at a minimum rate, no longer than announced, and uploads only while there is room.

Room is needed for what has arrived, not for what a request announces: an upload that never comes holds nothing. A
body that breaks off ends as Gradio's own parser ends a malformed one, which removes the partial files; on a plain
disconnect it would leave them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

from starlette.formparsers import MultiPartException
from starlette.responses import PlainTextResponse

from trainer.common.errors import UserError
from trainer.service.data import make_room
from ui.security.origins import App, Scope

WINDOW_SECONDS = 20.0
"""Time spent waiting for a body, after which it is judged; at worst, an idle one is dropped after twice as long."""
MIN_WINDOW_BYTES = 80_000
"""A body of fewer bytes in a window is dropped: 4 kB/s, a tenth of what a modem sends."""
ROOM_STEP = 32 * 2**20
"""Bytes after which an upload's room is checked again."""


class BrokenBody(MultiPartException):
    """A body that is not read to its end: status and message."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class BodyReader:
    """An ASGI `receive` that raises BrokenBody; the response to it is a sentence, whatever the app makes of it."""

    def __init__(self, receive: Any, size: int, stores: tuple[Path, ...] = ()) -> None:
        """`size`: announced bytes. `stores`: folders with the quota that an upload needs room in."""
        self._receive, self._size, self._stores = receive, size, stores
        self._complete = size == 0
        self._broken: BrokenBody | None = None
        self._arrived = self._room = 0
        self._waited, self._in_window = 0.0, 0

    async def respond(self, app: App, scope: Scope, send: Any) -> None:
        """Let `app` respond. If the body breaks off before it has begun to, respond with the reason."""
        started = False

        async def send_unless_broken(message: Any) -> None:
            nonlocal started
            if started or self._broken is None:
                started = True
                await send(message)

        with contextlib.suppress(BrokenBody):
            await app(scope, self, send_unless_broken)
        if self._broken is not None and not started:
            await PlainTextResponse(self._broken.message, self._broken.status)(scope, self._receive, send)

    async def __call__(self) -> Any:
        if self._complete:
            return await self._receive()
        if self._broken is not None:
            return {"type": "http.disconnect"}
        try:
            return await self._next()
        except BrokenBody as error:
            self._broken = error
            raise

    async def _next(self) -> Any:
        await self._reserve()
        message = await self._timely()
        if message["type"] == "http.disconnect":
            raise BrokenBody(400, "The request ended early.")
        self._arrived += len(message.get("body", b""))
        if self._arrived > self._size:
            raise BrokenBody(413, "The request is longer than it announced.")
        self._complete = not message.get("more_body", False)
        return message

    async def _reserve(self) -> None:
        """Room for the next part of an upload. Counts files, so not on the event loop."""
        if not self._stores or self._arrived < self._room:
            return
        part = min(ROOM_STEP, self._size - self._arrived)
        try:
            await asyncio.to_thread(make_room, self._stores, part)
        except UserError as error:
            raise BrokenBody(413, str(error)) from error
        self._room = self._arrived + part

    async def _timely(self) -> Any:
        """The next message. Only time spent waiting counts: a slow disk of ours is not the caller's fault."""
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, WINDOW_SECONDS - self._waited)):
                    message = await self._receive()
            except TimeoutError:
                if self._in_window < MIN_WINDOW_BYTES:
                    raise BrokenBody(408, "The request arrives too slowly.") from None
                self._waited, self._in_window = 0.0, 0
                continue
            self._waited += time.monotonic() - began
            self._in_window += len(message.get("body", b""))
            return message
