"""A fake hub: the HTTP API for models, serving a folder, with configurable faults.

`folder/owner/name/<revision>/…` are the files of a repository at a revision. safetensors files are in Git LFS.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest


class StandIn:
    """What it serves, how it fails, and the requests it received."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cut_after = 0
        """Bytes of an LFS file after which the connection breaks; 0: never."""
        self.pause = 0.0
        """Seconds between chunks of an LFS file."""
        self.piece = 65536
        """Bytes of such a chunk."""
        self.gated: set[str] = set()
        self.silent = 0.0
        """Seconds before any answer."""
        self.conversions: dict[str, int] = {}
        """Repository -> number of the pull request with its safetensors."""
        self.found: list[dict[str, Any]] = []
        """Search results, in the hub's format."""
        self.asked: list[str] = []
        self.sent = 0
        """Bytes of LFS files that were sent."""
        self.url = ""

    def commit(self, name: str, revision: str) -> str:
        """A revision's commit id: a hash of its content."""
        if len(revision) == 40:
            return revision
        found = hashlib.sha1(name.encode())
        for path in sorted(self.place(name, revision).rglob("*")):
            if path.is_file():
                found.update(path.name.encode() + path.read_bytes())
        return found.hexdigest()

    def place(self, name: str, revision: str) -> Path:
        base = self.folder / name
        if len(revision) == 40:
            for path in base.iterdir() if base.is_dir() else ():
                if self.commit(name, path.name.replace("--", "/")) == revision:
                    return path
            return base / "none"
        return base / revision.replace("/", "--")

    def files(self, name: str, revision: str) -> dict[str, Path]:
        base = self.place(name, revision)
        return {str(path.relative_to(base)): path for path in sorted(base.rglob("*")) if path.is_file()}


@contextmanager
def serving(folder: Path) -> Iterator[StandIn]:
    """Serve a fake hub."""
    hub = StandIn(folder)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def environment(url: str, home: Path) -> dict[str, str]:
    """Environment variables that make a process use the fake hub."""
    return {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


def use_here(url: str, cache: Path, patch: pytest.MonkeyPatch) -> None:
    """Make the client in this process use the fake hub."""
    from huggingface_hub import constants

    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = [unquote(part) for part in parts.path.strip("/").split("/")]
        query = parse_qs(parts.query)
        self.hub.asked.append(f"{self.command} {unquote(parts.path)}")
        time.sleep(self.hub.silent)
        if path == ["api", "models"]:
            word = query.get("search", [""])[0].lower()
            self._json([row for row in self.hub.found if word in row["id"].lower()])
        elif path[:2] == ["api", "models"]:
            self._api("/".join(path[2:4]), path[4:])
        elif len(path) > 4 and path[2] == "resolve":
            self._file("/".join(path[:2]), path[3], "/".join(path[4:]))
        else:
            self._refuse(404, "")

    def _api(self, name: str, rest: list[str]) -> None:
        hub = self.hub
        kind, revision = (*rest, "revision", "main")[:2] if len(rest) != 1 else (rest[0], "main")
        if kind == "discussions":
            number = hub.conversions.get(name)
            row = {"num": number, "title": "Adding `safetensors` variant of this model", "status": "open",
                   "isPullRequest": True, "author": {"name": "SFconvertbot"}, "createdAt": "2024-01-01T00:00:00.000Z",
                   "repo": {"name": name, "type": "model"}}  # fmt: skip
            self._json({"discussions": [row] if number else [], "count": int(bool(number)), "start": 0})
        elif not (hub.folder / name).is_dir():
            self._refuse(401, "RepoNotFound")
        elif not hub.place(name, revision).is_dir():
            self._refuse(404, "RevisionNotFound")
        elif len(rest) > 2:
            self._refuse(404, "EntryNotFound")
        elif kind == "tree":
            rows = [
                {"type": "file", "path": file, "size": path.stat().st_size, "oid": _blob(path)}
                | (
                    {"lfs": {"oid": _sha(path), "size": path.stat().st_size, "pointerSize": 134}}
                    if _lfs(file)
                    else {}
                )
                for file, path in hub.files(name, revision).items()
            ]
            self._json(rows)
        else:
            rows = [
                {"rfilename": file, "size": path.stat().st_size, "blobId": _blob(path)}
                | (
                    {"lfs": {"sha256": _sha(path), "size": path.stat().st_size, "pointerSize": 134}}
                    if _lfs(file)
                    else {}
                )
                for file, path in hub.files(name, revision).items()
            ]
            self._json({"id": name, "sha": hub.commit(name, revision), "siblings": rows, "private": False})

    def _file(self, name: str, revision: str, file: str) -> None:
        path = self.hub.files(name, revision).get(file)
        if not (self.hub.folder / name).is_dir():
            return self._refuse(401, "RepoNotFound")
        if name in self.hub.gated:
            return self._refuse(403, "GatedRepo")
        if not self.hub.place(name, revision).is_dir():
            return self._refuse(404, "RevisionNotFound")
        commit = {"X-Repo-Commit": self.hub.commit(name, revision)}
        if path is None:
            return self._refuse(404, "EntryNotFound", commit)
        data, start = path.read_bytes(), 0
        etag = _sha(path) if _lfs(file) else _blob(path)
        headers = commit | {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if _lfs(file):
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, data[start:], headers, _lfs(file))
        return None

    def _send(self, status: int, data: bytes, headers: dict[str, str], is_lfs: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        hub = self.hub
        for place in range(0, len(data), hub.piece):
            piece = data[place : place + hub.piece]
            self.wfile.write(piece)
            if is_lfs:
                hub.sent += len(piece)
                time.sleep(hub.pause)
                if hub.cut_after and place + len(piece) >= hub.cut_after:
                    self.close_connection = True
                    self.connection.close()
                    return

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, False)

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(
            status, b"{}", {"X-Error-Code": code, "Content-Type": "application/json", **(headers or {})}, False
        )


def _lfs(file: str) -> bool:
    return file.endswith((".safetensors", ".bin"))


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _blob(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
