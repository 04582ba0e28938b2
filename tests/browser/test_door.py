"""The door in a browser: logging in and out, pages that frame the app, and what is left on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client
from playwright import sync_api

from tests.browser.conftest import opened_page
from tests.support import app_process
from tests.support.app_process import App
from tests.support.lab import PATIENCE, wait_for
from trainer.config.schema import RunConfig

PASSWORD = "a long enough password"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with app_process.running(tmp_path_factory.mktemp("locked"), LAB_PASSWORD=PASSWORD) as running:
        yield running


def test_log_in_and_out(locked: App, browser: sync_api.Browser) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(locked.address)
    page.get_by_label("Password").fill("wrong password")
    page.get_by_role("button", name="Enter").click()
    sync_api.expect(page.get_by_role("alert")).to_have_text("Wrong password.")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Enter").click()
    page.wait_for_selector(".modules .row")
    page.get_by_role("button", name="Log out").click()
    sync_api.expect(page.get_by_label("Password")).to_be_visible()
    page.go_back()
    sync_api.expect(page.get_by_label("Password")).to_be_visible()
    page.close()


def test_another_page_cannot_frame_the_app(
    app: str, context: sync_api.BrowserContext, client: Client, tmp_path: Path
) -> None:
    """It stays empty, so that no click on the other page can land on Train."""
    (tmp_path / "evil.html").write_text(f'<iframe src="{app}" width="1200" height="800"></iframe>')
    other = context.new_page()
    refused: list[str] = []
    other.on("console", lambda message: refused.append(message.text))
    other.goto((tmp_path / "evil.html").as_uri())
    other.wait_for_timeout(500)
    assert any("frame-ancestors" in text for text in refused)
    assert not other.frames[1].url.startswith("http")
    before = client.predict(api_name="/runs")
    for x, y in [(850, 570), (640, 570), (400, 300)]:  # about where Train is, were the app there
        other.mouse.click(x, y)
    other.wait_for_timeout(500)
    assert client.predict(api_name="/runs") == before
    other.close()
    without_password = next(opened_page(context, app))
    assert without_password.get_by_role("button", name="Log out").count() == 0
    without_password.close()


@pytest.mark.full
def test_files_are_private_and_no_answer_names_their_folder(
    running_app: App, small: RunConfig, client: Client, page: sync_api.Page
) -> None:
    """A run, watched and downloaded: everything the app and the worker wrote is 0600, every folder 0700."""
    answers: list[str] = []
    page.on("response", lambda response: answers.append(_text(response)))
    run = client.predict(small.to_json(), api_name="/train")
    page.get_by_role("tab", name="Runs", exact=True).click()
    wait_for(lambda: client.predict(run, api_name="/run")["state"] == "finished")
    assert Path(client.predict(run, api_name="/export")).stat().st_size > 0
    runs = running_app.folder / "runs"
    assert runs.stat().st_mode & 0o777 == 0o700
    for folder, _, names in os.walk(runs):
        assert Path(folder).stat().st_mode & 0o777 == 0o700, folder
        for file in names:
            assert Path(folder, file).stat().st_mode & 0o777 == 0o600, (folder, file)
    assert answers
    assert not [text for text in answers if str(running_app.folder) in text]


def _text(response: sync_api.Response) -> str:
    try:
        return response.text()
    except (sync_api.Error, UnicodeDecodeError):  # a stream, or an image
        return ""
