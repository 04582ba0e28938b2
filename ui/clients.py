"""Whether the client of the current request is still there."""

from __future__ import annotations

import anyio.from_thread
from gradio.context import LocalContext

from trainer.common.progress import ProgressMonitor


def monitor_of_client() -> ProgressMonitor:
    """Drops a call that has not started yet when its client has closed the connection.

    Used in the thread of a handler. A request to the queue has ended long before its handler runs; what counts then
    is the stream of its events. Gradio removes requests that wait in its own queue.
    """
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    request = getattr(LocalContext.request.get(None), "request", None)

    def gone() -> bool:
        if blocks is not None and event_id is not None:
            event = blocks._queue.event_ids_to_events.get(event_id)
            return event is not None and not event.alive
        return request is not None and anyio.from_thread.run(request.is_disconnected)

    return ProgressMonitor(gone=gone)
