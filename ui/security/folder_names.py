"""Folders of this machine by short names, in everything that is sent: `exports/a.zip`, `runs/…`, `models/…`.

Gradio puts the absolute path of every upload and download into its messages, and takes it back from the page;
libraries name absolute paths in their errors. Both become short names on their way out, in one place. The names of
uploads and exports are understood on the way in (`guard.export`, `gate`).
"""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders

from trainer.common.program import HOME
from trainer.service.lab import Settings
from ui.security.origins import App, Scope

EXPORTS, UPLOADS = "exports", "uploads"
WHOLE = ("application/json", "text/html", "text/plain")
STREAM = "text/event-stream"


def folder_names(settings: Settings, uploads: Path) -> dict[Path, str]:
    """The folders whose paths are never sent, and what is sent instead."""
    hub = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    folders = {
        uploads: UPLOADS,
        settings.exports_dir: EXPORTS,
        settings.runs_dir: "runs",
        settings.models_dir: "models",
        Path(hub): "hub-cache",
        Path(sysconfig.get_path("purelib")): "python",
        Path(sysconfig.get_path("stdlib")): "python",
        HOME / "trainer": "trainer",
        HOME / "ui": "ui",
    }
    return {variant: name for folder, name in folders.items() for variant in (folder.absolute(), folder.resolve())}


class FolderNames:
    """ASGI middleware, the innermost: replaces the paths of folders in texts, JSON and event streams."""

    def __init__(self, app: App, names: Mapping[Path, str]) -> None:
        self.app = app
        self._names = {os.fsencode(path): name.encode() for path, name in names.items()}
        longest = sorted(self._names, key=len, reverse=True)
        # a path may end a sentence
        self._pattern = re.compile(b"(?:" + b"|".join(map(re.escape, longest)) + rb")(?![\w-]|\.\w)")

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self.app(scope, receive, _Renamed(self.rename, send).send)
        else:
            await self.app(scope, receive, send)

    def rename(self, body: bytes) -> bytes:
        """The text without the folders' paths."""
        return self._pattern.sub(lambda found: self._names[found[0]], body)


class _Renamed:
    """One response: whole texts are collected first, since their length changes; the parts of a stream are not."""

    def __init__(self, rename: Any, send: Any) -> None:
        self._rename, self._send = rename, send
        self._start: Any = None
        self._kind = ""
        self._parts: list[bytes] = []

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            self._kind = MutableHeaders(raw=list(message["headers"])).get("content-type", "").partition(";")[0]
            if self._kind not in WHOLE:
                await self._send(message)
        elif message["type"] != "http.response.body" or self._kind not in (*WHOLE, STREAM):
            await self._send(message)
        elif self._kind == STREAM:
            await self._send({**message, "body": self._rename(message.get("body", b""))})
        else:
            self._parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._send_whole()

    async def _send_whole(self) -> None:
        body = self._rename(b"".join(self._parts))
        headers = MutableHeaders(raw=list(self._start["headers"]))
        if body or "content-length" not in headers:  # the answer to HEAD has no body, but its length
            headers["content-length"] = str(len(body))
        await self._send({**self._start, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})
