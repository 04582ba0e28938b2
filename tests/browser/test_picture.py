"""The picture of the model's block: it follows the ticks, to the eye and to the ear."""

from __future__ import annotations

from typing import Any

Page = Any


def unit(page: Page, name: str) -> Any:
    """The box of a module, or of a slice, in the picture."""
    return page.locator(f'.picture [data-unit="{name}"]')


def spoken(page: Page, name: str) -> str:
    """What a screen reader hears of a module."""
    return next(line for line in page.locator(".spoken ul > li").all_text_contents() if line.startswith(f"{name},"))


def test_the_picture_follows_every_tick(page: Page) -> None:
    page.wait_for_selector(".picture .drawn svg .head")
    assert page.locator(".picture [role=img]").get_attribute("aria-describedby") == "picture-text"
    assert page.locator(".picture .frame-title b").inner_text() == "× 4 layers"
    assert "lora" in unit(page, "k_proj").get_attribute("class")
    page.locator('input[data-name="k_proj"]').uncheck()
    assert "lora" not in unit(page, "k_proj").get_attribute("class")
    assert spoken(page, "k_proj").endswith(": frozen")
    page.locator('input[data-name="qkv_proj"]').check()  # all of its slices
    assert "lora" in unit(page, "k_proj").get_attribute("class")
    page.locator('input[data-name="lm_head"]').check()
    assert "full" in unit(page, "lm_head").get_attribute("class")
    assert spoken(page, "lm_head").endswith(": Full")


def test_layers_of_a_tick_are_shown_as_the_receipt_counts_them(page: Page) -> None:
    row = page.locator(".modules .row", has=page.locator('input[data-name="o_proj"]'))
    row.locator(".more").click()
    row.locator('[data-key="layers"]').fill("last 2")
    row.locator('[data-key="layers"]').press("Tab")
    page.wait_for_function("document.querySelector('.spoken').textContent.includes('2 of these 4 layers: last 2')")
    assert "LoRA last 2" in unit(page, "o_proj").inner_text()
    row.locator('[data-key="layers"]').fill("9")
    row.locator('[data-key="layers"]').press("Tab")
    page.wait_for_function("document.querySelector('.spoken').textContent.includes('o_proj, 160×160: frozen')")
    assert "lora" not in unit(page, "o_proj").get_attribute("class")


def test_the_picture_closes_for_good_and_leads_to_the_ticks(page: Page) -> None:
    unit(page, "down_proj").click()
    assert page.evaluate("document.activeElement.dataset.name") == "down_proj"
    page.click("#picture-toggle")
    assert page.locator(".picture").is_hidden()
    page.reload()
    page.wait_for_selector(".modules .row")
    assert page.locator(".picture").is_hidden()
    page.set_viewport_size({"width": 420, "height": 900})
    page.click("#picture-toggle")
    page.wait_for_selector(".picture .drawn svg .head")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
