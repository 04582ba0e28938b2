"""The app in a process of its own, and a browser in front of it. Without Chromium these tests fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client
from playwright import sync_api

from tests.browser import chromium
from tests.support import app_process
from tests.support.app_process import App
from tests.support.lab import PATIENCE, small_config
from trainer.config.schema import RunConfig

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
LEFT = ("AbortError: signal is aborted", "Unexpected error Connection errored out.")
"""What Gradio says of the requests that are cut off when a page is left."""


@pytest.fixture(scope="session")
def running_app(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[App]:
    """An app with an empty runs folder."""
    with app_process.running(tmp_path_factory.mktemp("app"), "--models-dir", str(models_dir)) as running:
        yield running


@pytest.fixture
def app(running_app: App) -> str:
    """Its address."""
    return running_app.address


@pytest.fixture
def small(running_app: App, tmp_path: Path) -> RunConfig:
    """A run of a few steps of the tiny Phi-3, which take no time, on a file that the app has."""
    return small_config(running_app.folder / "runs" / "data", tmp_path / "rows.jsonl")


@pytest.fixture
def client(app: str, tmp_path: Path) -> Iterator[Client]:
    """The app's API."""
    opened = Client(app, verbose=False, download_files=str(tmp_path), httpx_kwargs={"timeout": PATIENCE})
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[sync_api.Browser]:
    path = chromium.find() or pytest.fail(chromium.MISSING)
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def context(browser: sync_api.Browser) -> Iterator[sync_api.BrowserContext]:
    """One for all pages: what it has cached need not be loaded again."""
    opened = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    opened.set_default_timeout(PATIENCE * 1000)
    yield opened
    opened.close()


@pytest.fixture
def page(app: str, context: sync_api.BrowserContext) -> Iterator[sync_api.Page]:
    """The page at 1440 × 900, its modules read."""
    yield from opened_page(context, app)


def opened_page(context: sync_api.BrowserContext, address: str) -> Iterator[sync_api.Page]:
    """Requests to other hosts, script errors, and anything in the console but plain logging fail the test."""
    opened = context.new_page()
    faults: list[str] = []
    opened.on("request", lambda request: faults.extend(_foreign(request.url, address)))
    opened.on("pageerror", lambda error: faults.append(f"{error.name}: {error.message}"))
    opened.on("console", lambda message: faults.extend(_complaint(message)))
    opened.goto(address)
    opened.wait_for_selector(".modules .row")
    opened.wait_for_selector(".summary dl")
    yield opened
    opened.evaluate("localStorage.clear()")
    opened.close()
    assert faults == []


def _foreign(url: str, app: str) -> list[str]:
    return [] if url.startswith((app, "data:", "blob:")) else [f"request to {url}"]


def _complaint(message: sync_api.ConsoleMessage) -> list[str]:
    """A console error or warning, with the address it came from."""
    is_complaint = message.type in ("error", "warning", "assert") and not any(text in message.text for text in LEFT)
    return [f"console {message.type}: {message.text} ({message.location['url']})"] if is_complaint else []
