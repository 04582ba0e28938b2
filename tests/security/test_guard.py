"""Hosts, origins, paths, files, sizes: what reaches the app at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.security.asgi import ask, inside
from trainer.data.readers import uploads
from ui.security.guard import Guard

JOIN = "/gradio_api/queue/join"


def guard(tmp_path: Path, *hosts: str) -> Guard:
    return Guard(inside, hosts or ("127.0.0.1",), tmp_path, (tmp_path,))


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
    app: Any = guard(tmp_path)
    app.exports_dir = exports.resolve()
    status = {
        str(path): ask(app, f"/gradio_api/file={path}")[0]
        for path in [
            *(
                exports / name
                for name in (
                    "a.zip",
                    ".b.zip",
                    ".c.zip-7",
                    "deeper/d.zip",
                    "link.zip",
                    "inner.zip",
                    "nothing.zip",
                    "",
                )
            ),
            *(
                exports / "../events.jsonl",
                outside,
                "README.md",
                "/etc/passwd",
                "http://example.com/a.zip",
                "a\0.zip",
            ),
        ]
    }
    assert [path for path, answer in status.items() if answer == 200] == [str(exports / "a.zip")]
    assert set(status.values()) == {200, 403}


def test_a_body_must_say_its_size_and_be_small(tmp_path: Path) -> None:
    assert ask(guard(tmp_path), JOIN, "POST", {"content-length": ""})[0] == 411
    assert ask(guard(tmp_path), JOIN, "POST", {"content-length": "4000001"})[0] == 413
    assert ask(guard(tmp_path), "/gradio_api/upload", "POST", {"content-length": "4000001"})[0] == 200
    too_long = {"content-length": str(uploads.MAX_UPLOAD_BYTES + 1)}
    assert ask(guard(tmp_path), "/gradio_api/upload", "POST", too_long)[0] == 413


def test_uploads_have_a_quota_that_counts_what_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "QUOTA_BYTES", 1000)
    (tmp_path / "kept").write_bytes(b"x" * 500)
    app = guard(tmp_path)
    headers = {"content-length": "400"}
    assert ask(app, "/gradio_api/upload", "POST", headers)[0] == 200
    app.incoming = 200
    status, _, body = ask(app, "/gradio_api/upload", "POST", headers)
    assert status == 413
    assert b"quota" in body
