"""The password: nothing without it, the same time for every wrong one, slower with every attempt."""

from __future__ import annotations

import asyncio
import hmac
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.security.asgi import ask, inside
from ui.security import sessions
from ui.security.auth import Login
from ui.security.sessions import Devices, Sessions, Throttle

PASSWORD = "correct horse battery"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(clock: Clock, tmp_path: Path) -> Login:
    return login(clock, tmp_path)


def login(clock: Clock, folder: Path) -> Login:
    """As the app makes it at every start."""
    return Login(inside, PASSWORD, Sessions(clock), Devices(folder / "key"), Throttle(clock))


def log_in(app: Login, password: str, client: str = "10.0.0.1", **headers: str) -> tuple[int, dict[str, str], bytes]:
    return ask(app, "/login", "POST", headers, urlencode({"username": "", "password": password}).encode(), client)


def cookies(headers: dict[str, str]) -> dict[str, str]:
    """Name and value of every cookie that a response sets."""
    pairs = [line.split(";")[0].partition("=") for line in headers["set-cookie"].split("\n")]
    return {name: value for name, _, value in pairs}


def session(app: Login) -> str:
    """A session's cookie."""
    return f"lab_session={cookies(log_in(app, PASSWORD)[1])['lab_session']}"


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/nothing", "/logout", "/gradio_api/queue/join", "/gradio_api/file=a.zip", "/gradio_api/upload"],
)
def test_without_a_session_every_path_answers_the_same(path: str, app: Login) -> None:
    for cookie in ("", "lab_session=", "lab_session=x", 'lab_session="', "\x7f=;;"):
        for method in ("GET", "POST", "OPTIONS"):
            status, headers, body = ask(app, path, method, {"cookie": cookie, "content-length": "6000000000"})
            assert (status, body) == (401, b"A password is required: POST it to /login.")
            assert headers["cache-control"] == "no-store"
        assert ask(app, path, headers={"cookie": cookie, "accept": "text/html"})[0] == 401
    assert ask(app, "/robots.txt")[2] == b"User-agent: *\nDisallow: /\n"


def test_the_password_opens_a_session_that_scripts_and_other_sites_cannot_use(app: Login) -> None:
    status, headers, _ = log_in(app, PASSWORD)
    assert status == 200
    for cookie in headers["set-cookie"].split("\n"):
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert PASSWORD not in cookie
        assert "Secure" not in cookie
    assert log_in(app, PASSWORD, **{"x-forwarded-proto": "https"})[1]["set-cookie"].count("; Secure") == 2
    assert ask(app, headers={"cookie": session(app)})[2] == b"inside"


def test_a_browser_gets_a_page_to_log_in_and_goes_on_from_there(app: Login) -> None:
    status, headers, body = ask(app, headers={"accept": "text/html"})
    assert (status, headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert b'type="password"' in body
    assert log_in(app, PASSWORD, accept="text/html")[0] == 303


@pytest.mark.parametrize("wrong", ["", "x", PASSWORD + " ", PASSWORD[:-1], "ä" * 50, "x" * 10_000])
def test_a_wrong_password_opens_nothing(wrong: str, app: Login) -> None:
    status, headers, _ = log_in(app, wrong)
    assert status == 401
    assert "set-cookie" not in headers


def test_passwords_are_compared_in_constant_time(app: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `hmac.compare_digest`, on digests: of equal length whatever was typed, so that not even the length shows."""
    seen: list[tuple[bytes, bytes]] = []
    true_compare = hmac.compare_digest

    def compare(first: Any, second: Any) -> bool:
        seen.append((first, second))
        return true_compare(first, second)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    log_in(app, "x")
    log_in(app, PASSWORD)
    assert [len(item) for pair in seen for item in pair] == [32] * 4


def test_attempts_get_slower_and_even_the_right_password_waits(app: Login, clock: Clock) -> None:
    answers = [log_in(app, "wrong")[0] for _ in range(10)]
    assert answers == [401, 401, 401, *[429] * 7]
    assert log_in(app, PASSWORD)[0] == 429
    assert log_in(app, PASSWORD, client="10.0.0.2")[0] == 200
    clock.now += 1.1
    assert log_in(app, "wrong")[0] == 401
    clock.now += 1.1
    status, headers, _ = log_in(app, "wrong")
    assert (status, headers["retry-after"]) == (429, "2")
    clock.now += 1
    assert log_in(app, PASSWORD)[0] == 200
    assert log_in(app, "wrong")[0] == 401


def test_a_day_of_guessing_is_a_few_hundred_attempts(app: Login, clock: Clock) -> None:
    tried = 0
    while clock.now < 86_400:
        tried += log_in(app, f"guess {tried}")[0] == 401
        clock.now += 30
    assert tried < 320


def test_guesses_from_the_same_address_do_not_delay_a_known_device(app: Login, clock: Clock, tmp_path: Path) -> None:
    """Behind a proxy or NAT everybody has one address. It holds across a restart; forged cookies gain nothing."""
    device = f"lab_device={cookies(log_in(app, PASSWORD)[1])['lab_device']}"
    for known in (app, login(clock, tmp_path)):
        for _ in range(10):
            log_in(known, "wrong")
        assert log_in(known, PASSWORD)[0] == 429
        assert log_in(known, PASSWORD, cookie=device)[0] == 200
        assert log_in(known, PASSWORD, cookie=device[:-1])[0] == 429
        assert ask(known, headers={"cookie": device})[0] == 401, "it is no session"
    assert [log_in(app, "wrong", cookie=device)[0] for _ in range(5)] == [401, 401, 401, 429, 429]
    other = Devices(tmp_path / "other").cookie("")
    assert log_in(app, PASSWORD, cookie=f"lab_device={other}")[0] == 429
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_one_machine_is_one_address_in_all_of_its_ipv6_network(app: Login) -> None:
    answers = [log_in(app, "wrong", client=f"2001:db8:0:1::{number:x}")[0] for number in range(1, 8)]
    assert answers[:3] == [401] * 3
    assert set(answers[3:]) == {429}


def test_memory_for_callers_and_sessions_is_capped(app: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_CALLERS", 10)
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 5)
    for number in range(50):
        log_in(app, "wrong", client=f"10.0.1.{number}")
    assert len(app._throttle._failed) <= 10
    opened = [session(app) for _ in range(8)]
    assert [ask(app, headers={"cookie": cookie})[0] for cookie in opened] == [401] * 3 + [200] * 5


def test_a_session_ends_and_its_cookie_cannot_be_made_or_changed(app: Login, clock: Clock, tmp_path: Path) -> None:
    cookie = session(app)
    for wrong in (cookie[:-1], cookie.replace("=", "=x"), session(login(clock, tmp_path))):
        assert ask(app, headers={"cookie": wrong})[0] == 401
    while clock.now < sessions.SESSION_SECONDS:
        assert ask(app, headers={"cookie": cookie})[0] == 200
        clock.now += sessions.IDLE_SECONDS / 2
    assert ask(app, headers={"cookie": cookie})[0] == 401, "after a week in any case"
    cookie = session(app)
    clock.now += sessions.IDLE_SECONDS
    assert ask(app, headers={"cookie": cookie})[0] == 401, "or when it was not used"
    cookie = session(app)
    assert ask(login(clock, tmp_path), headers={"cookie": cookie})[0] == 401, "or when the app restarts"


def test_logging_out_ends_the_session_for_whoever_has_its_cookie(app: Login) -> None:
    cookie, other = session(app), session(app)
    assert ask(app, "/logout", headers={"cookie": cookie})[2] == b"inside", "a link cannot log anybody out"
    status, headers, _ = ask(app, "/logout", "POST", {"cookie": cookie, "accept": "text/html"})
    assert (status, cookies(headers)["lab_session"]) == (303, '""')
    assert ask(app, headers={"cookie": cookie})[0] == 401
    assert ask(app, headers={"cookie": other})[0] == 200


def test_a_stream_ends_with_its_session(clock: Clock, tmp_path: Path) -> None:
    sent: list[Any] = []

    async def stream(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(4):
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
            clock.now += sessions.IDLE_SECONDS / 2

    app = login(clock, tmp_path)
    cookie = session(app)
    app.app = stream
    sent = asyncio.run(_messages(app, cookie))
    assert [message.get("body") for message in sent[1:]] == [b"0", b"1", b""]


async def _messages(app: Login, cookie: str) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"cookie", cookie.encode())]}
    await app(scope, None, send)
    return sent
