"""One password for the whole app: a login page, a session cookie, and tries that get slower.

Gradio's own `auth=` leaves several of its routes open; here nothing is reached without a session but the
login itself and the call by which Gradio sees that it has started.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from ui.security.guard import App, Scope, answer, header_map

COOKIE = "lab_session"
OPEN = ("/gradio_api/startup-events", "/robots.txt")
MAX_SESSIONS = 1000
MAX_FORM_BYTES = 4096
FREE_TRIES = 3
LONGEST_DELAY = 300.0
MAX_ADDRESSES = 4096
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>LoRA Module Lab</title>
<meta name="viewport" content="width=device-width"><style>body{{font:16px system-ui;display:grid;place-items:center;
min-height:90vh;margin:0}}form{{display:grid;gap:12px;width:min(320px,90vw)}}input,button{{font:inherit;padding:8px}}
p{{margin:0}}</style><form method="post" action="login"><h1>LoRA Module Lab</h1><label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
<button>Enter</button><p role="alert">{}</p></form></html>"""


class Throttle:
    """Failed tries by address: the first few are free, then the wait doubles. Memory is capped."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds that this address has to wait before its next try."""
        return max(0.0, self._failed.get(address, (0, 0.0))[1] - self._clock())

    def fail(self, address: str) -> None:
        """Count a failed try. The address that failed longest ago is forgotten where there are too many."""
        tries = self._failed.pop(address, (0, 0.0))[0] + 1
        delay = min(2.0 ** min(tries - FREE_TRIES, 20), LONGEST_DELAY) if tries >= FREE_TRIES else 0.0
        self._failed[address] = (tries, self._clock() + delay)
        if len(self._failed) > MAX_ADDRESSES:
            self._failed.popitem(last=False)

    def succeed(self, address: str) -> None:
        self._failed.pop(address, None)


class Login:
    """ASGI middleware: asks for the password until a request brings the cookie of a session."""

    def __init__(self, app: App, password: str, throttle: Throttle | None = None) -> None:
        self.app = app
        self._digest = _digest(password)
        self._throttle = throttle or Throttle()
        self._sessions: OrderedDict[bytes, None] = OrderedDict()
        """Digests of the cookies handed out."""

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"].rstrip("/") == "/login" and scope["method"] == "POST":
            await self._log_in(scope, receive, send)
        elif scope["path"] in OPEN or self._knows(header_map(scope).get("cookie", "")):
            await self.app(scope, receive, send)
        else:
            await _ask(scope, send, 401, "")

    def _knows(self, cookies: str) -> bool:
        try:
            found = SimpleCookie(cookies).get(COOKIE)
        except CookieError:
            return False
        return found is not None and _digest(found.value) in self._sessions

    async def _log_in(self, scope: Scope, receive: Any, send: Any) -> None:
        address = _network(scope)
        wait = self._throttle.wait(address)
        if wait > 0:
            await _ask(scope, send, 429, f"Too many tries. Try again in {round(wait) + 1} seconds.", wait)
            return
        password = await _read_password(receive)
        # nothing is awaited between the two checks and the count, so tries side by side are counted, too
        if self._throttle.wait(address) > 0 or not hmac.compare_digest(_digest(password), self._digest):
            self._throttle.fail(address)
            await _ask(scope, send, 401, "This is not the password.")
            return
        self._throttle.succeed(address)
        await _welcome(scope, send, self._new_session())

    def _new_session(self) -> str:
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token)] = None
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return token


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _network(scope: Scope) -> str:
    """The caller's address; of IPv6 the /64, since one machine may use all of it."""
    text = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text[:64]
    return str(ipaddress.ip_network((text, 64), strict=False)) if address.version == 6 else text


async def _read_password(receive: Any) -> str:
    """The form's password; empty where the form is none or too long."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or len(body) > MAX_FORM_BYTES:
            return ""
        if not message.get("more_body"):
            break
    try:
        typed: str = parse_qs(body.decode(), max_num_fields=10).get("password", [""])[0]
        return typed
    except ValueError:
        return ""


async def _ask(scope: Scope, send: Any, status: int, text: str, wait: float = 0.0) -> None:
    """The login page for a browser, a sentence for a program."""
    headers = [(b"cache-control", b"no-store")]
    if wait:
        headers.append((b"retry-after", str(round(wait) + 1).encode()))
    if "text/html" not in header_map(scope).get("accept", ""):
        await answer(send, status, text or "A password is needed: post it to /login.", headers)
        return
    body = PAGE.format(text).encode()
    headers += [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _welcome(scope: Scope, send: Any, token: str) -> None:
    """Set the cookie; a browser goes on to the page, a program gets `{"success": true}`."""
    is_https = header_map(scope).get("x-forwarded-proto", scope.get("scheme")) == "https"
    secure = "; Secure" if is_https else ""
    cookie = (b"set-cookie", f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict{secure}".encode())
    if "text/html" in header_map(scope).get("accept", ""):
        await answer(send, 303, "Welcome.", [cookie, (b"location", b"./")])
    else:
        await answer(send, 200, '{"success": true}', [cookie])
