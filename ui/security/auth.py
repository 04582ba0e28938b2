"""One password for the whole app: a login page, a session cookie, and throttled attempts.

Gradio's own `auth=` leaves several of its routes open. Here, nothing can be reached without a session except the
login itself and the request by which Gradio checks that it has started.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from typing import Any

from itsdangerous import BadSignature, TimestampSigner
from starlette.formparsers import FormParser, MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response

from ui.security.guard import App, Scope
from ui.views import HTML

COOKIE = "lab_session"
OPEN = ("/gradio_api/startup-events", "/robots.txt")
SESSION_SECONDS = 30 * 86_400
MAX_FORM_BYTES = 4096
FREE_ATTEMPTS = 3
MAX_DELAY = 300.0
MAX_ADDRESSES = 4096


class Throttle:
    """Failed attempts by address: the first few are free, then the delay doubles. Memory is capped."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds that this address has to wait before its next attempt."""
        return max(0.0, self._failed.get(address, (0, 0.0))[1] - self._clock())

    def fail(self, address: str) -> None:
        """Count a failed attempt. If there are too many addresses, the one that failed longest ago is forgotten."""
        attempts = self._failed.pop(address, (0, 0.0))[0] + 1
        delay = min(2.0 ** min(attempts - FREE_ATTEMPTS, 20), MAX_DELAY) if attempts >= FREE_ATTEMPTS else 0.0
        self._failed[address] = (attempts, self._clock() + delay)
        if len(self._failed) > MAX_ADDRESSES:
            self._failed.popitem(last=False)

    def succeed(self, address: str) -> None:
        self._failed.pop(address, None)


class Login:
    """ASGI middleware: asks for the password unless a request has a valid session cookie."""

    def __init__(self, app: App, password: str, throttle: Throttle | None = None) -> None:
        self.app = app
        self._digest = _digest(password)
        self._throttle = throttle or Throttle()
        # a new key at every start, which ends all sessions
        self._signer = TimestampSigner(secrets.token_bytes(32), salt=COOKIE, digest_method=hashlib.sha256)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, path = Request(scope, receive), scope["path"]
        if path.rstrip("/") == "/login" and request.method == "POST":
            response = await self._log_in(request)
        elif path in OPEN or self._is_valid(request.cookies.get(COOKIE, "")):
            await self.app(scope, receive, send)
            return
        else:
            response = _login_required(request, 401)
        await response(scope, receive, send)

    def _is_valid(self, token: str) -> bool:
        """Whether this app issued the token, and not too long ago."""
        try:
            self._signer.unsign(token, max_age=SESSION_SECONDS)
        except (BadSignature, UnicodeError):
            return False
        return True

    async def _log_in(self, request: Request) -> Response:
        address = _client_address(request)
        wait = self._throttle.wait(address)
        if wait > 0:
            seconds = str(round(wait) + 1)
            return _login_required(
                request, 429, f"Too many attempts. Try again in {seconds} seconds.", {"retry-after": seconds}
            )
        password = await _read_password(request)
        # nothing is awaited between these checks and the count, so that concurrent attempts are counted
        if self._throttle.wait(address) > 0 or not hmac.compare_digest(_digest(password), self._digest):
            self._throttle.fail(address)
            return _login_required(request, 401, "Wrong password.")
        self._throttle.succeed(address)
        return _welcome(request, self._signer.sign(secrets.token_urlsafe(16)).decode())


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


async def _read_password(request: Request) -> str:
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
    except (MultiPartException, ClientDisconnect, UnicodeError):
        return ""
    password = form.get("password", "")
    return password if isinstance(password, str) else ""


def _login_required(request: Request, status: int, text: str = "", headers: dict[str, str] | None = None) -> Response:
    """The login page for a browser, plain text for a program."""
    headers = {"cache-control": "no-store", **(headers or {})}
    if _is_browser(request):
        return HTMLResponse(HTML.render("login.html", problem=text), status, headers)
    return PlainTextResponse(text or "A password is required: POST it to /login.", status, headers)


def _welcome(request: Request, token: str) -> Response:
    """Set the cookie; a browser is redirected to the page, a program gets `{"success": true}`."""
    response = RedirectResponse("./", 303) if _is_browser(request) else JSONResponse({"success": True})
    is_https = request.headers.get("x-forwarded-proto", request.scope.get("scheme")) == "https"
    response.set_cookie(COOKIE, token, secure=is_https, httponly=True, samesite="strict")
    return response


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")
