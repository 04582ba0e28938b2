"""The server behind its door over real sockets: slow, idle and broken connections and uploads, and what is sent.

Timeouts and limits are a fraction of the real ones.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

import app as program
import ui
from tests.support.lab import wait_for
from trainer.common import file_locks
from trainer.data.readers import uploads
from trainer.service import Lab, Settings
from ui import server
from ui.security import auth, bodies, connections, upload_folder

PASSWORD = "a long enough password"
UPLOAD = "/gradio_api/upload"
BOUNDARY = {"content-type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jsonl"\r\n\r\n'
GIB = 2**30


class Door(NamedTuple):
    address: str
    port: int
    lab: Lab

    @contextlib.contextmanager
    def log_in(self) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=self.address, timeout=20) as client:
            assert client.post("/login", data={"password": PASSWORD}).status_code == 200
            yield client

    def connect(self, text: bytes = b"") -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", self.port), 20)
        opened.sendall(text)
        return opened

    def upload(self, client: httpx.Client, size: int, content: bytes) -> socket.socket:
        """An upload that announces `size` bytes and sends `content`."""
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        fields = {"host": "127.0.0.1", "cookie": cookie, "content-length": size, **BOUNDARY}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return self.connect(f"POST {UPLOAD} HTTP/1.1\r\n{head}\r\n".encode() + content)

    @property
    def arriving(self) -> list[Path]:
        """The files of uploads that have not ended."""
        return [path for path in self.lab.settings.uploads_dir.rglob("tmp*") if path.is_file()]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    lab = Lab(Settings(runs_dir=tmp_path_factory.mktemp("door") / "runs"))
    port = program.free_port("127.0.0.1", 7890)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEADER_SECONDS", 0.5)
        patch.setattr(connections, "MAX_CONNECTIONS", 20)
        patch.setattr(auth, "FORM_SECONDS", 1.0)
        patch.setattr(auth, "MAX_FORMS", 4)
        patch.setattr(bodies, "WINDOW_SECONDS", 0.5)
        running = server.start(ui.make_app(lab, PASSWORD), "127.0.0.1", port)
        yield Door(f"http://127.0.0.1:{port}", port, lab)
        running.close()
    lab.close()


def is_closed(opened: socket.socket) -> bool:
    """Whether the server has ended the connection without another word."""
    opened.settimeout(0.05)
    with contextlib.suppress(TimeoutError):
        try:
            return opened.recv(1) == b""
        except ConnectionError:
            return True
    return False


def test_headers_that_do_not_come_end_the_connection(door: Door) -> None:
    silent, slow, second = door.connect(), door.connect(b"GET / HTTP/1.1\r\nx: "), door.connect()
    second.sendall(b"GET /robots.txt HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    answer = b""
    while not answer.endswith(b"Disallow: /\n"):
        answer += second.recv(9000)
    second.sendall(b"GET")
    for _ in range(8):
        time.sleep(0.1)
        with contextlib.suppress(OSError):
            slow.sendall(b"x")
    assert is_closed(silent)
    assert is_closed(slow)
    assert is_closed(second)


def test_idle_connections_and_half_sent_logins_lock_nobody_out(door: Door) -> None:
    half = b"POST /login HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 4000\r\n\r\npassword="
    opened = [door.connect(half) for _ in range(10)] + [door.connect() for _ in range(60)]
    began = time.monotonic()
    with door.log_in() as client:
        assert client.get("/config").status_code == 200
    assert time.monotonic() - began < 10
    for connection in opened:
        connection.close()


def test_who_is_not_logged_in_is_answered_before_the_body(door: Door) -> None:
    cached = door.lab.settings.data_dir / "cache" / "key" / "tokens"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"x")
    with httpx.Client() as stranger:
        opened = door.upload(stranger, 6 * GIB, PART + b"x" * 1000)
    answer = opened.recv(9000).lower()
    assert answer.startswith(b"http/1.1 401")
    assert b"connection: close" in answer
    wait_for(lambda: is_closed(opened))
    assert door.arriving == []
    assert cached.exists()


def test_uploads_that_do_not_come_hold_no_quota_and_end(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "QUOTA_BYTES", 6 * GIB)
    with door.log_in() as client:
        idle = [door.upload(client, 5 * GIB, PART + b"x" * 5000) for _ in range(4)]
        wait_for(lambda: len(door.arriving) == 4)
        assert client.post(UPLOAD, files={"files": ("b.jsonl", b"{}" * 1000)}).status_code == 200
        wait_for(lambda: door.arriving == [])
        for opened in idle:
            answer = opened.recv(9000)
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"arrives too slowly" in answer


def test_an_upload_that_breaks_off_leaves_nothing(door: Door) -> None:
    with door.log_in() as client:
        opened = door.upload(client, GIB, PART + b"x" * 200_000)
        wait_for(lambda: len(door.arriving) == 1)
        opened.close()
        wait_for(lambda: door.arriving == [])


def test_what_a_killed_app_was_sent_goes_at_the_next_start(tmp_path: Path) -> None:
    living = upload_folder.make(tmp_path)
    (living / "tmp1").write_bytes(b"x")
    for left in ("0123456789abcdef/tmp2", "0123456789abcdef/.lock", "hash/a.jsonl"):
        (tmp_path / left).parent.mkdir(exist_ok=True)
        (tmp_path / left).write_bytes(b"x")
    (tmp_path / "tmp3").write_bytes(b"x")
    fresh = upload_folder.make(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {living.name, fresh.name, ".lock"}
    assert (living / "tmp1").exists()
    assert file_locks.holder(fresh / ".lock") == os.getpid()


def test_every_response_keeps_other_sites_out(door: Door) -> None:
    with door.log_in() as client:
        responses = [
            *(client.get(path) for path in ("/", "/config", "/robots.txt", "/nothing", "/gradio_api/file=x")),
            *(client.get("/", headers={"host": "evil.example"}), client.post(UPLOAD, content=iter([b"x"]))),
            *(client.post("/gradio_api/queue/join", json=[]), client.get("/", headers={"origin": "null"})),
            httpx.get(door.address, headers={"accept": "text/html"}),
        ]
    assert [response.status_code for response in responses] == [200, 200, 200, 404, 403, 400, 411, 422, 403, 401]
    for response in responses:
        headers = response.headers
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        policy = headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert policy.startswith("default-src 'none'")
        assert "http" not in policy
        assert "server" not in headers
    assert "'unsafe-inline'" not in responses[0].headers["content-security-policy"].partition("style-src")[0]


def test_no_response_names_a_folder_of_the_machine(door: Door) -> None:
    runs = door.lab.settings.runs_dir
    (door.lab.settings.exports_dir / "a.zip").write_bytes(b"PK")
    with door.log_in() as client:
        texts = [client.get(path).text for path in ("/", "/config", "/gradio_api/info")]
        texts += [client.post(UPLOAD, files={"files": ("c.jsonl", b"{}")}).text]
        texts += [client.post("/gradio_api/run/run", json={"data": [str(runs / "nothing")]}).text]
        assert client.get("/gradio_api/file=exports/a.zip").content == b"PK"
    for text in texts:
        assert str(runs.parent) not in text
        assert str(Path(ui.__file__).parents[1]) not in text
    assert '"uploads/' in texts[3]
