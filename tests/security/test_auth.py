"""The password: nothing without it, the same time for every wrong one, slower with every try."""

from __future__ import annotations

import hmac
import time
from typing import Any
from urllib.parse import urlencode

import pytest
from itsdangerous import TimestampSigner

from tests.security.asgi import ask, inside
from ui.security import auth
from ui.security.auth import Login, Throttle

PASSWORD = "correct horse battery"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(clock: Clock) -> Login:
    return Login(inside, PASSWORD, Throttle(clock))


def log_in(app: Login, password: str, client: str = "10.0.0.1", **headers: str) -> tuple[int, dict[str, str], bytes]:
    return ask(app, "/login", "POST", headers, urlencode({"username": "", "password": password}).encode(), client)


@pytest.mark.parametrize(
    "path", ["/", "/config", "/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/file=a.zip", "/assets/a.js"]
)
def test_nothing_is_reached_without_the_password(path: str, app: Login) -> None:
    for cookie in ("", "lab_session=", "lab_session=x", 'lab_session="', "\x7f=;;"):
        assert ask(app, path, "POST", {"cookie": cookie})[0] == 401
        assert ask(app, path, headers={"cookie": cookie, "accept": "text/html"})[0] == 401


def test_the_password_opens_a_session_that_scripts_and_other_sites_cannot_use(app: Login) -> None:
    status, headers, _ = log_in(app, PASSWORD)
    assert status == 200
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert PASSWORD not in cookie
    assert "Secure" not in cookie
    assert "; Secure" in log_in(app, PASSWORD, **{"x-forwarded-proto": "https"})[1]["set-cookie"]
    assert ask(app, headers={"cookie": cookie.split(";")[0]})[2] == b"inside"


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


def test_tries_get_slower_and_even_the_right_password_waits(app: Login, clock: Clock) -> None:
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


def test_a_day_of_guessing_is_a_few_hundred_tries(app: Login, clock: Clock) -> None:
    tried = 0
    while clock.now < 86_400:
        tried += log_in(app, f"guess {tried}")[0] == 401
        clock.now += 30
    assert tried < 320


def test_one_machine_is_one_address_in_all_of_its_ipv6_network(app: Login) -> None:
    answers = [log_in(app, "wrong", client=f"2001:db8:0:1::{number:x}")[0] for number in range(1, 8)]
    assert answers[:3] == [401] * 3
    assert set(answers[3:]) == {429}


def test_memory_for_addresses_is_capped(app: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MAX_ADDRESSES", 10)
    for number in range(50):
        log_in(app, "wrong", client=f"10.0.1.{number}")
    assert len(app._throttle._failed) <= 10


def test_a_session_ends_and_its_cookie_cannot_be_made_or_changed(app: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = log_in(app, PASSWORD)[1]["set-cookie"].split(";")[0]
    other = log_in(Login(inside, PASSWORD), PASSWORD)[1]["set-cookie"].split(";")[0]
    for wrong in (cookie[:-1], cookie.replace("=", "=x"), cookie.rpartition(".")[0], other):
        assert ask(app, headers={"cookie": wrong})[0] == 401
    assert ask(app, headers={"cookie": cookie})[0] == 200
    then = int(time.time()) + auth.SESSION_SECONDS + 5
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: then)
    assert ask(app, headers={"cookie": cookie})[0] == 401
