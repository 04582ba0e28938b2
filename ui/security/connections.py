"""Connections: headers and responses have timeouts, and those that do nothing make room for those that ask.

uvicorn limits connections by refusing new ones, so that idle ones would lock everybody out, and waits for headers for
as long as they take.
"""

from __future__ import annotations

import asyncio
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
        self._header_timer: asyncio.TimerHandle | None = None
        self._stalled_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._make_room()
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._drop)

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_timer = _cancel(self._header_timer)
        self._stalled_timer = _cancel(self._stalled_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._header_timer = _cancel(self._header_timer)
        elif self._header_timer is None:  # the next request on this connection
            self._header_timer = self.loop.call_later(HEADER_SECONDS, self._drop)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled_timer = _cancel(self._stalled_timer)
        self._stalled_timer = self.loop.call_later(STALLED_SECONDS, self._drop)

    def resume_writing(self) -> None:
        self._stalled_timer = _cancel(self._stalled_timer)
        super().resume_writing()

    def _make_room(self) -> None:
        """Drop the idle connection that is next to time out, if there are too many."""
        if len(self.connections) < MAX_CONNECTIONS:
            return
        idle = [other for other in self.connections if isinstance(other, Connection) and other.is_idle]
        idle = [other for other in idle if other is not self]
        if idle:
            oldest = min(idle, key=lambda other: other._deadline())
            oldest._drop()
            self.connections.discard(oldest)

    def _deadline(self) -> float:
        timers = [timer.when() for timer in (self._header_timer, self.timeout_keep_alive_task) if timer]
        return min(timers, default=0.0)

    def _drop(self) -> None:
        self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
