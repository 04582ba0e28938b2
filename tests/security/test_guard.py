"""Hosts, origins, paths, files, sizes: what reaches the app at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.security.asgi import ask, inside
from trainer.data.readers import uploads
from ui.security import bodies
from ui.security.guard import Guard
from ui.security.origins import Origins

JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"


def guard(tmp_path: Path, *hosts: str) -> Origins:
    return Origins(Guard(inside, tmp_path, (tmp_path,)), hosts or ("127.0.0.1",))


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860"])
def test_its_own_names_are_answered(host: str, tmp_path: Path) -> None:
    assert ask(guard(tmp_path), headers={"host": host})[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7860", "evil@127.0.0.1"),
        *("127.0.0.1@evil.example", "127.0.0.1, evil.example", "0.0.0.0:7860", "[::]", "[", "127.0.0.1:x", "::1"),
        "192.168.1.5",
    ],
)
def test_a_foreign_host_is_refused_with_400(host: str, tmp_path: Path) -> None:
    for path in ("/", "/config", JOIN):
        assert ask(guard(tmp_path), path, headers={"host": host})[0] == 400


def test_an_app_that_listens_everywhere_is_known_by_the_address_called_and_by_allowed_names(tmp_path: Path) -> None:
    app, here = guard(tmp_path, "0.0.0.0", "lab.example"), ("192.168.1.5", 7860)
    for host, status in {"192.168.1.5:7860": 200, "lab.example": 200, "192.168.1.6": 400, "0.0.0.0": 400}.items():
        assert ask(app, headers={"host": host}, server=here)[0] == status


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "http://evil.example",
            "null",
            "",
            "http://127.0.0.1:3000",
            "http://127.0.0.1",
            "http://[",
            "http://localhost:7860",
        ),
        *("http://127.0.0.1:7860.evil.example", "file://", "http://127.0.0.1:99999"),
    ],
)
def test_a_foreign_origin_is_refused_with_403(origin: str, tmp_path: Path) -> None:
    for path in (JOIN, "/gradio_api/upload", "/gradio_api/run/train", "/login"):
        assert ask(guard(tmp_path), path, "POST", {"origin": origin}, b"{}")[0] == 403


def test_what_a_browser_marks_as_sent_by_another_site_is_refused(tmp_path: Path) -> None:
    assert ask(guard(tmp_path), JOIN, "POST", {"sec-fetch-site": "cross-site"}, b"{}")[0] == 403


def test_its_own_page_and_programs_may_post(tmp_path: Path) -> None:
    for headers in ({}, {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}):
        assert ask(guard(tmp_path), JOIN, "POST", headers, b"{}")[0] == 200


def test_behind_a_proxy_that_speaks_https_the_origin_is_its_name(tmp_path: Path) -> None:
    headers = {"host": "lab.example", "origin": "https://lab.example"}
    assert ask(guard(tmp_path, "lab.example"), JOIN, "POST", headers, b"{}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/monitoring", "/gradio_api/proxy=http://x", "/gradio_api/component_server", "/gradio_api/vibe-edit"),
        *("/gradio_api/stream/a/b/c/playlist.m3u8", "/gradio_api/custom_component/a/b/c/d", "/gradio_api/dev/reload"),
        *(
            "/gradio_api/openapi.json",
            "/docs",
            "/openapi.json",
            "/gradio_api/runs",
            "/gradio_api/file/app.py",
            "//",
            "/a",
        ),
        *("/gradio_api/token", "/gradio_api/process_recording", "/gradio_api/profiling/clear", "/\n", "//", "/a"),
    ],
)
def test_what_the_page_does_not_need_does_not_exist(path: str, tmp_path: Path) -> None:
    assert ask(guard(tmp_path), path)[0] == 404


def test_of_files_only_finished_zips_of_the_exports_folder_are_served(tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    (exports / "deeper").mkdir(parents=True)
    outside = tmp_path / "events.jsonl"
    for file in (exports / "a.zip", exports / ".b.zip", exports / ".c.zip-7", exports / "deeper/d.zip", outside):
        file.write_text("x")
    (exports / "link.zip").symlink_to(outside)
    (exports / "inner.zip").symlink_to(exports / ".b.zip")
    served: list[str] = []

    async def gradio(scope: Any, receive: Any, send: Any) -> None:
        served.append(scope["path"])
        await inside(scope, receive, send)

    app = Guard(gradio, exports, ())
    names = (
        "a.zip",
        ".b.zip",
        ".c.zip-7",
        "deeper/d.zip",
        "link.zip",
        "inner.zip",
        "nothing.zip",
        "",
        "../events.jsonl",
    )
    paths = [f"exports/{name}" for name in names] + [str(exports / "a.zip"), str(outside), "README.md", "/etc/passwd"]
    paths += ["http://example.com/a.zip", "exports/a\0.zip", "exports/../exports/a.zip", "a.zip", "uploads/a.zip"]
    status = {path: ask(app, f"/gradio_api/file={path}")[0] for path in paths}
    assert [path for path, answer in status.items() if answer == 200] == ["exports/a.zip"]
    assert set(status.values()) == {200, 403}
    assert served == [f"/gradio_api/file={exports.resolve() / 'a.zip'}"], "Gradio gets the real path"


def test_a_body_must_say_its_size_and_be_small(tmp_path: Path) -> None:
    assert ask(guard(tmp_path), JOIN, "POST", {"content-length": ""})[0] == 411
    assert ask(guard(tmp_path), JOIN, "POST", {"content-length": "4000001"})[0] == 413
    assert ask(guard(tmp_path), "/gradio_api/upload", "POST", {"content-length": "4000001"})[0] == 200
    too_long = {"content-length": str(uploads.MAX_UPLOAD_BYTES + 1)}
    assert ask(guard(tmp_path), "/gradio_api/upload", "POST", too_long)[0] == 413


def test_a_claim_of_a_large_upload_evicts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what arrives needs room. What can never fit is refused at once, and the message names the full folder."""
    monkeypatch.setattr(uploads, "QUOTA_BYTES", 1000)
    data, arriving = tmp_path / "data", tmp_path / "uploads"
    cached = data / "cache" / "key"
    cached.mkdir(parents=True)
    arriving.mkdir()
    (cached / "tokens").write_bytes(b"x" * 500)
    (data / "rows.jsonl").write_bytes(b"x" * 300)
    app = Guard(inside, tmp_path, (data, arriving))
    assert ask(app, UPLOAD, "POST", {"content-length": "700"})[0] == 200
    assert (cached / "tokens").exists()
    status, _, body = ask(app, UPLOAD, "POST", {"content-length": "701"})
    assert status == 413
    assert b"`data` in the runs folder holds 300 B" in body
    (arriving / "part").write_bytes(b"x" * 600)
    assert b"`uploads` in the runs folder holds 600 B" in ask(app, UPLOAD, "POST", {"content-length": "101"})[2]


async def read_all(_scope: Any, receive: Any, send: Any) -> None:
    """An app that reads the body, and responds with its length."""
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def test_a_body_needs_room_as_it_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "QUOTA_BYTES", 1000)
    monkeypatch.setattr(bodies, "ROOM_STEP", 100)
    (tmp_path / "cache" / "key").mkdir(parents=True)
    (tmp_path / "cache" / "key" / "tokens").write_bytes(b"x" * 950)
    app = Guard(read_all, tmp_path, (tmp_path,))
    assert ask(app, UPLOAD, "POST", body=b"x" * 200)[2] == b"200"
    assert not (tmp_path / "cache" / "key").exists(), "now it is needed"


def test_a_body_is_not_longer_than_announced(tmp_path: Path) -> None:
    app = Guard(read_all, tmp_path, (tmp_path,))
    assert ask(app, JOIN, "POST", {"content-length": "3"}, b"four")[0] == 413
    assert ask(app, JOIN, "POST", {"transfer-encoding": "chunked"}, b"four")[0] == 411
