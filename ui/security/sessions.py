"""Who is logged in, which devices were, and how long others wait after wrong passwords."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from itsdangerous import BadSignature, TimestampSigner

from trainer.common import atomic

IDLE_SECONDS = 12 * 3600
"""Without a request. An open page makes one every few seconds."""
SESSION_SECONDS = 7 * 86_400
"""In any case."""
MAX_SESSIONS = 1000
DEVICE_SECONDS = 365 * 86_400
FREE_ATTEMPTS = 3
MAX_DELAY = 300.0
MAX_CALLERS = 4096
Clock = Callable[[], float]


class Sessions:
    """The open sessions, in memory: logging out and restarting the app end them for certain."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._open: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        """By digest of the token: when it began, and its last request. Oldest request first."""

    def begin(self) -> str:
        """A new session's token. If there are too many, the one unused for longest ends."""
        token = secrets.token_urlsafe(32)
        self._open[_digest(token)] = self._clock(), self._clock()
        if len(self._open) > MAX_SESSIONS:
            self._open.popitem(last=False)
        return token

    def is_open(self, token: str) -> bool:
        """Whether the token's session has neither ended nor expired."""
        began, used = self._open.get(_digest(token), (-float("inf"), 0.0))
        return self._clock() < min(used + IDLE_SECONDS, began + SESSION_SECONDS)

    def use(self, token: str) -> bool:
        """As `is_open`; counts as a request."""
        key = _digest(token)
        if not self.is_open(token):
            self._open.pop(key, None)
            return False
        self._open[key] = self._open.pop(key)[0], self._clock()
        return True

    def end(self, token: str) -> None:
        self._open.pop(_digest(token), None)


class Devices:
    """Devices that have logged in before, known by a signed cookie: wrong passwords of others do not delay them.

    See OWASP, "Slow Down Online Guessing Attacks with Device Cookies". The key is kept, so that a restart of the app
    in the middle of an attack locks nobody out. The cookie opens nothing: its holder only gets a separate count.
    """

    def __init__(self, key_file: Path) -> None:
        self._signer = TimestampSigner(_stored_key(key_file), salt="device", digest_method=hashlib.sha256)

    def cookie(self, device: str) -> str:
        """A cookie for this device, or for a new one if it is empty."""
        return self._signer.sign(device or secrets.token_hex(16)).decode()

    def known(self, cookie: str) -> str:
        """The device's name; empty if the cookie was not made here."""
        try:
            return self._signer.unsign(cookie, max_age=DEVICE_SECONDS).decode()
        except (BadSignature, UnicodeError):
            return ""


class Throttle:
    """Failed attempts by caller: the first few are free, then the delay doubles. Memory is capped."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, caller: str) -> float:
        """Seconds that this caller has to wait before its next attempt."""
        return max(0.0, self._failed.get(caller, (0, 0.0))[1] - self._clock())

    def fail(self, caller: str) -> None:
        """Count a failed attempt. If there are too many callers, the one that failed longest ago is forgotten."""
        attempts = self._failed.pop(caller, (0, 0.0))[0] + 1
        delay = min(2.0 ** min(attempts - FREE_ATTEMPTS, 20), MAX_DELAY) if attempts >= FREE_ATTEMPTS else 0.0
        self._failed[caller] = (attempts, self._clock() + delay)
        if len(self._failed) > MAX_CALLERS:
            self._failed.popitem(last=False)

    def succeed(self, caller: str) -> None:
        self._failed.pop(caller, None)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _stored_key(file: Path) -> bytes:
    """The key in the file, which is made if there is none."""
    if not file.is_file() or file.stat().st_size != 32:
        atomic.write(file, secrets.token_bytes(32))
    return file.read_bytes()
