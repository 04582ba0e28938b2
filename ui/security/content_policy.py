"""The page's Content-Security-Policy: it loads from the app only, and runs only the scripts that came with it.

Gradio's template has inline scripts: each gets a nonce, new with every response, so that no other text on the page
can become a script. 'unsafe-eval' has to stay: Gradio makes functions of every `js=` and `js_on_load`.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from starlette.datastructures import MutableHeaders

from ui.security.origins import App, Scope

POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; "
    "form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
)
_SCRIPT = re.compile(rb"<script\b")


class ContentPolicy:
    """ASGI middleware around Gradio: gives the page its policy."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        nonce = secrets.token_urlsafe(16)
        attribute = b'<script nonce="%s"' % nonce.encode()
        is_page = False

        async def send_page(message: Any) -> None:
            nonlocal is_page
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                is_page = headers.get("content-type", "").startswith("text/html")
                if is_page:
                    headers["content-security-policy"] = POLICY.format(nonce=nonce)
                    headers["cache-control"] = "no-store"  # the back button shows no page after logging out
                    del headers["content-length"]
                    message = {**message, "headers": headers.raw}
            elif is_page and message["type"] == "http.response.body":
                message = {**message, "body": _SCRIPT.sub(attribute, message.get("body", b""))}
            await send(message)

        await self.app(scope, receive, send_page if scope["type"] == "http" else send)
