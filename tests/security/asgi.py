"""One request to an ASGI app, without a server: what comes back is a status, headers and a body."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def ask(  # noqa: PLR0913  the parts of a request
    app: Any,
    path: str = "/",
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    client: str = "127.0.0.1",
    server: tuple[str, int] = ("127.0.0.1", 7860),
) -> tuple[int, dict[str, str], bytes]:
    """Send one request and collect the response; the values of a repeated header are joined by line breaks."""
    named = {"host": "127.0.0.1:7860", **(headers or {})}
    if method == "POST":
        named.setdefault("content-length", str(len(body)))
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "scheme": "http",
        "query_string": b"",
        "server": server,
        "client": (client, 50000),
        "headers": [(key.encode("latin-1"), value.encode("latin-1")) for key, value in named.items()],
    }
    sent: list[dict[str, Any]] = []
    arriving = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not arriving:
            await asyncio.Event().wait()  # the caller stays connected
        return arriving.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    # in a thread of its own: where a browser is driven, this one has a running event loop
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, app(scope, receive, send)).result()
    answered: dict[str, str] = {}
    for key, value in sent[0]["headers"]:
        name = key.decode()
        answered[name] = f"{answered[name]}\n{value.decode()}" if name in answered else value.decode()
    return sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:])


async def inside(_scope: Any, _receive: Any, send: Any) -> None:
    """An app behind the guards: answers everything with 200."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})
