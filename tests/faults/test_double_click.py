"""A double click on Train starts one run."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("playwright.sync_api")

from tests.browser.conftest import app, browser, page

assert app
assert browser
assert page


def test_a_double_click_on_train_starts_one_run(page: Any) -> None:
    page.locator("#train").dblclick()
    page.wait_for_function("document.querySelector('#live-status .pill') !== null")
    page.locator("#train").wait_for()
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_selector(".runs tbody tr")
    page.wait_for_timeout(4000)  # a second run would have come by now
    assert page.locator(".runs tbody tr").count() == 1
    page.locator(".runs tbody tr input").first.check()
    page.locator("#run-stop").click()
    page.wait_for_selector(".runs tbody .pill.stopped")
