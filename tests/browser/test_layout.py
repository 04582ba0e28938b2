"""How the page is laid out at every width, and that it is usable by keyboard and with assistive technology."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright import sync_api

from tests.browser.conftest import opened_page

Page = Any
WIDTHS = ((1440, 900), (1024, 768), (420, 900))
AXE = Path(__file__).resolve().parents[2] / "node_modules" / "axe-core" / "axe.min.js"
NESTED = """() => [...document.querySelectorAll("body *")].filter((node) => {
  const scrolls = ["auto", "scroll"].includes(getComputedStyle(node).overflowY) && node.checkVisibility();
  return scrolls && node.scrollHeight > node.clientHeight + 1 && node.id !== "data-sheet"
    && !node.matches("textarea, [role=listbox], [role=listbox] *");
}).map((node) => `${node.tagName} #${node.id} .${node.className} ${node.scrollHeight} > ${node.clientHeight}`)"""
USE_ORDER = ("#model-input", ".modules .group", "#data-source", "#training-learning_rate", "#train", "#live-card")
"""From the first decision to its result."""


def nested(page: Page) -> list[str]:
    """What scrolls within the page, which scrolls itself."""
    return list(page.evaluate(NESTED))


def test_nothing_scrolls_within_the_page_and_all_is_in_reach_at_any_width(page: Page) -> None:
    page.get_by_role("button", name="More settings").click()
    page.locator("#training-seed").wait_for()
    for width, height in WIDTHS:
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        assert nested(page) == [], width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    tops = [page.locator(place).first.bounding_box()["y"] for place in USE_ORDER]
    assert tops == sorted(tops), "at 420 pixels, the page goes from top to bottom"
    assert not page.locator("#block-picture").is_visible()
    page.set_viewport_size({"width": 1024, "height": 768})
    page.evaluate("scrollTo(0, 0)")
    for name in ("q_proj", "o_proj", "gate_proj"):
        box = page.locator(f'input[data-name="{name}"]').bounding_box()
        assert 0 < box["y"] < 768, f"{name} is above the fold"
    page.evaluate("scrollTo(0, 900)")
    assert page.locator("#train").bounding_box()["y"] < 768, "Train stays in sight beside many settings"


def test_the_page_does_not_jump_while_it_loads(app: str, context: sync_api.BrowserContext) -> None:
    shifts = """() => new Promise((done) => new PerformanceObserver((list) => done(
      list.getEntries().filter((entry) => !entry.hadRecentInput).reduce((sum, entry) => sum + entry.value, 0)
    )).observe({ type: "layout-shift", buffered: true }))"""
    for page in opened_page(context, app):
        page.wait_for_timeout(1000)
        assert page.evaluate(f"Promise.race([({shifts})(), new Promise((none) => setTimeout(none, 500, 0))])") < 0.1


def test_overlays_close_on_escape_on_a_click_elsewhere_and_on_tab(page: Page) -> None:
    models, field = page.locator(".model-field .popup"), page.get_by_label("Model", exact=True)
    memory, summary = page.locator(".summary .memory table"), page.locator(".summary .memory summary")
    for overlay, opener in ((models, field), (memory, summary)):
        for close in (
            lambda: page.keyboard.press("Escape"),
            lambda: page.mouse.click(700, 20),
            lambda: page.keyboard.press("Tab"),
        ):
            opener.click()
            assert overlay.is_visible()
            close()
            sync_api.expect(overlay).to_be_hidden()


@pytest.fixture
def axe() -> str:
    if not AXE.exists():
        pytest.skip("axe-core comes with npm, which is not installed")
    return AXE.read_text(encoding="utf-8")


def violations(page: Page, axe: str) -> list[str]:
    """What axe finds, a line each."""
    page.evaluate(axe)
    found = page.evaluate("axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'] })")
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


@pytest.fixture(params=["light", "dark"])
def colored(request: Any, app: str, browser: sync_api.Browser) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": 1440, "height": 900}, reduced_motion="reduce", color_scheme=request.param
    )
    yield from opened_page(context, app)
    context.close()


def test_axe_finds_nothing_on_any_tab(colored: Page, axe: str) -> None:
    colored.get_by_role("button", name="More settings").click()
    colored.locator("#training-seed").wait_for()
    assert violations(colored, axe) == []
    for tab in ("Runs", "Compare"):
        colored.get_by_role("tab", name=tab).click()
        colored.wait_for_timeout(500)
        assert violations(colored, axe) == [], tab
    colored.get_by_role("tab", name="Train").click()
    colored.locator("#data-open").click()
    colored.locator("#data-example .t").first.wait_for()
    assert violations(colored, axe) == [], "data"
