"""The app in a process of its own and a browser before it. Without Chromium these are skipped; in CI they fail."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright import sync_api

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE = 60_000
"""Milliseconds to wait for what a busy machine may take long for."""


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[str]:
    """The address of a running app with an empty runs folder."""
    folder = tmp_path_factory.mktemp("app")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port), "--runs-dir", str(folder / "runs")]
    process = subprocess.Popen(
        [*command, "--models-dir", str(models_dir)],
        cwd=ROOT,
        env=os.environ | {"LAB_DEVICE_LOCKS": str(folder / "locks")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "running on" in process.stdout.readline()
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture(scope="session")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        bundled = Path(playwright.chromium.executable_path)
        path = str(bundled) if bundled.exists() else shutil.which("chromium") or shutil.which("google-chrome")
        if path is None:
            missing = "no Chromium: `apt-get install chromium`, or `.venv/bin/playwright install chromium`"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(app: str, browser: sync_api.Browser) -> Iterator[sync_api.Page]:
    """The page at 1440 × 900, its modules read. Requests to elsewhere and errors of scripts fail the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    faults: list[str] = []
    opened.on("request", lambda request: faults.extend(_foreign(request.url, app)))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.goto(app)
    opened.wait_for_selector(".modules .row")
    opened.wait_for_selector(".summary dl")
    yield opened
    context.close()
    assert faults == []


def _foreign(url: str, app: str) -> list[str]:
    return [] if url.startswith((app, "data:", "blob:")) else [f"request to {url}"]
