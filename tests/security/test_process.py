"""The app's real process over HTTP: what is served, to whom, and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import app_process
from tests.support.app_process import App
from tests.support.lab import PATIENCE

ROOT = Path(__file__).parents[2]
PASSWORD = "a long enough password"
http = httpx.Client(timeout=PATIENCE)
get, post, options = http.get, http.post, http.options


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """An open app on this machine."""
    with app_process.running(tmp_path_factory.mktemp("open")) as app:
        yield app


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """An app on every address, with a password."""
    options = ("--host", "0.0.0.0", "--allow-host", "lab.example")
    with app_process.running(tmp_path_factory.mktemp("locked"), *options, LAB_PASSWORD=PASSWORD) as app:
        yield app


def test_it_listens_on_this_machine_only(lab: App) -> None:
    port = int(lab.address.rpartition(":")[2])
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    places = {fields[1] for fields in listening if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")}
    assert places == {f"0100007F:{port:04X}"}


def test_no_file_of_the_machine_is_served(lab: App) -> None:
    address, folder = lab.address, lab.folder
    exports = folder / "runs" / "exports"
    (exports / "a.zip").write_bytes(b"PK")
    (folder / "runs" / "data" / "b.jsonl").write_text("{}")
    assert get(f"{address}/gradio_api/file=exports/a.zip").content == b"PK"
    assert get(f"{address}/gradio_api/file={exports / 'a.zip'}").status_code == 403
    paths = [
        *("README.md", "app.py", "trainer/lab.py", ".gitignore", ".git/config", "runs", "models", "../etc/passwd"),
        *(ROOT / "README.md", ROOT / ".git/HEAD", folder / "runs/data/b.jsonl", folder / "log", "/etc/passwd"),
        *(f"{exports}/../data/b.jsonl", exports, "http://127.0.0.1:1/a.zip", "/proc/self/environ", "%2e%2e/app.py"),
    ]
    for path in paths:
        for route in ("gradio_api/file=", "file=", "gradio_api/file/", "static/", "assets/", "gradio_api/proxy="):
            answer = get(f"{address}/{route}{path}")
            assert answer.status_code in (400, 403, 404), (route, path)
            assert len(answer.content) < 200


def test_an_upload_is_not_served_back(lab: App) -> None:
    address, folder = lab.address, lab.folder
    answer = post(f"{address}/gradio_api/upload", files={"files": ("../../x.html", b"<script>")})
    assert answer.status_code == 200
    (path,) = answer.json()
    assert path.startswith("uploads/")
    (stored,) = (folder / "runs" / "uploads").glob("*/*/x.html")
    for name in (path, stored):
        assert get(f"{address}/gradio_api/file={name}").status_code == 403


def test_hosts_and_origins(lab: App) -> None:
    address = lab.address
    join = f"{address}/gradio_api/queue/join"
    assert get(address, headers={"host": "evil.example"}).status_code == 400
    assert post(join, json={}, headers={"origin": "http://evil.example"}).status_code == 403
    upload = post(f"{address}/gradio_api/upload", files={"files": b"x"}, headers={"origin": "http://evil.example"})
    assert upload.status_code == 403
    assert post(join, json={}, headers={"origin": address}).status_code == 422
    preflight = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    assert options(join, headers=preflight).status_code == 403
    for origin in ("http://localhost:3000", "null"):
        assert get(f"{address}/config", headers={"origin": origin}).status_code == 403


def test_bodies_that_no_parser_likes_get_a_sentence(lab: App) -> None:
    address = lab.address
    bodies = [
        *(
            b"[" * 100_000,
            b'{"data": ' + b"[" * 100_000,
            b'{"data": [' + b"9" * 5000 + b"]}",
            b"\xff\xfe",
            b"",
            b"null",
        ),
        *(b'{"data": ["\\ud800"], "fn_index": "\\ud800"}', b'{"data": [NaN], "fn_index": NaN}', b'{"data": []}'),
        *(b'{"data": [], "fn_index": 99999}', b'{"data": [], "fn_index": -1}', b'{"data": {}, "fn_index": 1}'),
    ]
    for body in bodies:
        for route in ("run/predict", "queue/join", "call/plan", "run/plan", "run/nothing", "cancel", "reset"):
            answer = post(
                f"{address}/gradio_api/{route}",
                content=body,
                headers={"content-type": "application/json"},
            )
            assert answer.status_code < 600
            assert "Traceback" not in answer.text
            assert 'File "' not in answer.text
    assert get(f"{address}/config").status_code == 200


def test_a_password_guards_every_address(locked: App) -> None:
    from gradio_client import Client

    address = locked.address
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/heartbeat/x", "/assets/x", "/theme.css"):
        assert get(address + path).status_code == 401
    for path in ("run/runs", "queue/join", "upload", "cancel", "reset", "call/runs"):
        assert post(f"{address}/gradio_api/{path}", json={"data": []}).status_code == 401
    with httpx.Client(timeout=PATIENCE, base_url=address) as browser:
        assert browser.post("/login", data={"password": "wrong"}).status_code == 401
        assert browser.post("/login", data={"password": PASSWORD}).status_code == 200
        assert browser.get("/config").status_code == 200
        assert browser.get("/config", headers={"host": "lab.example"}).status_code == 200
        assert browser.get("/config", headers={"host": "evil.example"}).status_code == 400
    client = Client(address, auth=("", PASSWORD), verbose=False)
    assert client.predict(api_name="/runs") == []
    assert PASSWORD not in locked.log.read_text()


def test_no_process_shows_the_password(locked: App) -> None:
    """Not on a command line, and not in the environment of the helper and the workers."""
    process = locked.process
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = 0
    for threads in Path(f"/proc/{process.pid}/task").iterdir():
        children += (threads / "children").read_text().split()
    for child in set(children):
        found += 1
        assert PASSWORD.encode() not in Path(f"/proc/{child}/environ").read_bytes()
        assert PASSWORD.encode() not in Path(f"/proc/{child}/cmdline").read_bytes()
    assert found
    assert PASSWORD.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


def test_tries_get_slower_whatever_address_they_claim(locked: App) -> None:
    """The last test here: it leaves this machine's address waiting."""
    with httpx.Client(timeout=PATIENCE, base_url=locked.address) as browser:
        claims = [{"x-forwarded-for": f"203.0.113.{number}"} for number in range(8)]
        answers = [browser.post("/login", data={"password": "x"}, headers=claim).status_code for claim in claims]
    assert answers[:3] == [401] * 3
    assert 429 in answers
