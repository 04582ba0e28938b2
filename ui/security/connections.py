"""Connections: headers and responses have timeouts, and those that do nothing make room for those that ask.

uvicorn limits connections by refusing new ones, so that idle ones would lock everybody out, and waits for headers for
as long as they take.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""From a connection's first byte, or its start, to the end of a request's headers."""
STALLED_SECONDS = 60.0
"""A response that nobody reads for so long is dropped; a browser resumes a download."""
MAX_CONNECTIONS = 500
"""Below the usual limit of 1024 open files."""


class Connection(H11Protocol):
    """One connection of the server. Without WebSockets, which the page does not use."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.ws_protocol_class = None
        self.limit_concurrency = MAX_CONNECTIONS
        self._header = _Timer(self.loop, HEADER_SECONDS, self.drop)
        self._stalled = _Timer(self.loop, STALLED_SECONDS, self.drop)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def deadline(self) -> float:
        """When this connection will be dropped if nothing arrives."""
        keep_alive = self.timeout_keep_alive_task
        return min(self._header.when, keep_alive.when() if keep_alive else math.inf)

    def drop(self) -> None:
        self.connections.discard(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._header.start()
        if len(self.connections) >= MAX_CONNECTIONS:
            others: Any = self.connections - {self}
            idle = [connection for connection in others if connection.is_idle]
            if idle:
                min(idle, key=lambda connection: connection.deadline).drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._header.stop()
        self._stalled.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._header.start()
        else:
            self._header.stop()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled.start()

    def resume_writing(self) -> None:
        self._stalled.stop()
        super().resume_writing()


class _Timer:
    """Calls `act` some seconds after its start, unless it is stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, act: Callable[[], None]) -> None:
        self._loop, self._seconds, self._act = loop, seconds, act
        self._handle: asyncio.TimerHandle | None = None

    @property
    def when(self) -> float:
        """The loop's time of the call; infinite if it was not started."""
        return self._handle.when() if self._handle else math.inf

    def start(self) -> None:
        """Start, if it is not running."""
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._act)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
