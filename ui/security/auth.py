"""One password for the whole app: a login page, a session cookie, and throttled attempts.

Gradio's own `auth=` leaves several of its routes open. Here, a request without a session never gets past this file:
every path answers with the same login page and status, bodies are not read, and `/robots.txt` is a constant.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import AsyncGenerator
from typing import Any

from starlette.formparsers import FormParser, MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response

from ui.security.origins import App, Scope
from ui.security.sessions import DEVICE_SECONDS, SESSION_SECONDS, Devices, Sessions, Throttle
from ui.views import HTML

COOKIE = "lab_session"
DEVICE = "lab_device"
ROBOTS = "User-agent: *\nDisallow: /\n"
MAX_FORM_BYTES = 4096
FORM_SECONDS = 10.0
MAX_FORMS = 32
"""Login forms that may be on their way at once. One more drops the oldest: a real one arrives in a moment."""


class Login:
    """ASGI middleware: asks for the password unless a request has the cookie of an open session."""

    def __init__(self, app: App, password: str, sessions: Sessions, devices: Devices, throttle: Throttle) -> None:
        self.app = app
        self._digest = _digest(password)
        self._sessions, self._devices, self._throttle = sessions, devices, throttle
        self._forms: list[asyncio.Timeout] = []

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, path = Request(scope, receive), scope["path"].rstrip("/")
        token = request.cookies.get(COOKIE, "")
        if request.method == "POST" and path == "/login":
            response = await self._log_in(request)
        elif not self._sessions.use(token):
            response = PlainTextResponse(ROBOTS) if path == "/robots.txt" else _login_required(request, 401)
        elif request.method == "POST" and path == "/logout":
            response = self._log_out(request, token)
        else:
            await self.app(scope, receive, self._while_open(token, send))
            return
        await response(scope, receive, send)

    def _while_open(self, token: str, send: Any) -> Any:
        """A `send` that ends a stream when the session ends."""
        ended = False

        async def send_while_open(message: Any) -> None:
            nonlocal ended
            if ended:
                return
            if message.get("more_body") and not self._sessions.is_open(token):
                ended, message = True, {"type": "http.response.body", "body": b""}
            await send(message)

        return send_while_open

    async def _log_in(self, request: Request) -> Response:
        device = self._devices.known(request.cookies.get(DEVICE, ""))
        caller = f"device {device}" if device else _client_address(request)
        wait = self._throttle.wait(caller)
        if wait > 0:
            seconds = str(round(wait) + 1)
            return _login_required(
                request, 429, f"Too many attempts. Try again in {seconds} seconds.", {"retry-after": seconds}
            )
        try:
            password = await self._read_password(request)
        except (TimeoutError, ClientDisconnect):
            return _login_required(request, 408, "The password did not arrive. Try again.")
        # nothing is awaited between these checks and the count, so that concurrent attempts are counted
        if self._throttle.wait(caller) > 0 or not hmac.compare_digest(_digest(password), self._digest):
            self._throttle.fail(caller)
            return _login_required(request, 401, "Wrong password.")
        self._throttle.succeed(caller)
        return _welcome(request, self._sessions.begin(), self._devices.cookie(device))

    async def _read_password(self, request: Request) -> str:
        """The password in the form. Raises TimeoutError and ClientDisconnect if it does not arrive."""
        async with asyncio.timeout(FORM_SECONDS) as form:
            self._forms.append(form)
            try:
                if len(self._forms) > MAX_FORMS:
                    self._forms.pop(0).reschedule(0)
                return await _read_form(request)
            finally:
                if form in self._forms:
                    self._forms.remove(form)

    def _log_out(self, request: Request, token: str) -> Response:
        self._sessions.end(token)
        response = _done(request)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _client_address(request: Request) -> str:
    """The caller's address; for IPv6 its /64 network, since one machine may use all of it."""
    text = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text[:64]
    return str(ipaddress.ip_network((text, 64), strict=False)) if address.version == 6 else text


async def _read_form(request: Request) -> str:
    """The password in the form; empty if the form is invalid or too long."""

    async def limited() -> AsyncGenerator[bytes, None]:
        left = MAX_FORM_BYTES
        async for chunk in request.stream():
            left -= len(chunk)
            if left < 0:
                raise MultiPartException("This is longer than a password.")
            yield chunk

    try:
        # not `request.form()`, which accepts any number of bytes, and files
        form = await FormParser(request.headers, limited(), max_fields=10).parse()
    except (MultiPartException, UnicodeError):
        return ""
    password = form.get("password", "")
    return password if isinstance(password, str) else ""


def _login_required(request: Request, status: int, text: str = "", headers: dict[str, str] | None = None) -> Response:
    """The login page for a browser, plain text for a program."""
    headers = {"cache-control": "no-store", **(headers or {})}
    if _is_browser(request):
        return HTMLResponse(HTML.render("login.html", problem=text), status, headers)
    return PlainTextResponse(text or "A password is required: POST it to /login.", status, headers)


def _welcome(request: Request, token: str, device: str) -> Response:
    """Set the cookies of the session and of the device."""
    response = _done(request)
    is_https = request.headers.get("x-forwarded-proto", request.scope.get("scheme")) == "https"
    for name, value, seconds in ((COOKIE, token, SESSION_SECONDS), (DEVICE, device, DEVICE_SECONDS)):
        response.set_cookie(name, value, seconds, secure=is_https, httponly=True, samesite="strict")
    return response


def _done(request: Request) -> Response:
    """A browser is redirected to the page, a program gets `{"success": true}`."""
    return RedirectResponse("./", 303) if _is_browser(request) else JSONResponse({"success": True})


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")
