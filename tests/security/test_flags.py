"""Flags: which address may be listened on, and where the password comes from."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import app
from tests.support import app_process
from tests.support.lab import PATIENCE

ROOT = Path(__file__).parents[2]
PASSWORD = "a long enough password"


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The app's own process, with these arguments; for starts that are refused."""
    kept = {key: value for key, value in os.environ.items() if key not in ("LAB_PASSWORD", "PORT")}
    return subprocess.run(
        [sys.executable, "app.py", *arguments],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "lab.example"])
def test_another_address_without_a_password_is_refused_and_the_refusal_says_how(host: str) -> None:
    done = start("--host", host)
    assert done.returncode == 2
    assert "LAB_PASSWORD" in done.stderr
    assert "--auth" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("--auth",), {}),
        (("--auth", "/nowhere"), {}),
        (("--host", "0.0.0.0"), {"LAB_PASSWORD": "short"}),
        (("--port", "70000"), {}),
        ((), {"PORT": "²"}),
        (("--allow-host", "http://lab.example/"), {}),
        (("--host", "nosuchhost.invalid"), {"LAB_PASSWORD": PASSWORD}),
    ],
)
def test_flags_that_mean_nothing_are_refused(arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    done = start(*arguments, **environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "No port" not in done.stderr


def test_with_a_password_it_may_listen_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_PASSWORD", PASSWORD)
    settings, access = app.read_flags(["--host", "0.0.0.0", "--auth", "--allow-host", "Lab.Example"])
    assert (settings.host, access.password, access.hosts) == ("0.0.0.0", PASSWORD, ("lab.example",))


def test_no_child_process_inherits_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_PASSWORD", PASSWORD)
    app.read_flags([])
    assert "LAB_PASSWORD" not in os.environ


def test_the_password_comes_from_a_file_but_never_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\nsecond line\n")
    assert app.read_flags(["--auth", str(tmp_path / "password")])[1].password == PASSWORD
    done = start("--host", "0.0.0.0", "--auth", PASSWORD)
    assert done.returncode == 2
    assert PASSWORD not in done.stderr


def test_by_default_it_listens_on_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_PASSWORD", raising=False)
    settings, access = app.read_flags([])
    assert settings.host == "127.0.0.1"
    assert access.password == ""


def test_what_keeps_the_app_from_starting_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for flags, word in ((("--port", port), "in use"), (("--runs-dir", str(tmp_path / "file")), "--runs-dir")):
            done = start("--runs-dir", str(tmp_path / "runs"), *flags)
            assert done.returncode == 2
            assert word in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_the_app_listens_on_ipv6(tmp_path: Path, models_dir: Path) -> None:
    with app_process.running(tmp_path, "--host", "::1", "--models-dir", str(models_dir)) as running:
        port = int(running.address.rpartition(":")[2])
        statuses = []
        for host in (f"[::1]:{port}", f"localhost:{port}", f"[::2]:{port}"):
            connection = http.client.HTTPConnection("::1", port, timeout=60)
            connection.request("GET", "/", headers={"Host": host})
            statuses.append(connection.getresponse().status)
            connection.close()
        assert statuses == [200, 200, 400]
        assert f"http://[::1]:{port}" in running.log.read_text()
