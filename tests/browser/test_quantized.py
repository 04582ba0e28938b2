"""A checkpoint that is quantized already: what the page says of it, and what it no longer offers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.quantized import NF4

Page = Any
SAYS = "is used as it is"


@pytest.fixture
def model(models_dir: Path) -> Iterator[str]:
    folder = models_dir / "llama-bnb-4bit"
    folder.mkdir()
    value = tiny.config("llama").to_dict() | {"quantization_config": {"quant_method": "bitsandbytes", **NF4}}
    (folder / "config.json").write_text(json.dumps(value), encoding="utf-8")
    yield folder.name
    shutil.rmtree(folder)


def choose(page: Page, model: str, words: str) -> None:
    page.locator("#model input").fill(model)
    page.locator("#model input").press("Enter")
    page.wait_for_function("words => document.querySelector('.fact').innerText.includes(words)", arg=words)


def test_the_page_says_what_the_checkpoint_is_and_offers_no_choice_without_effect(page: Page, model: str) -> None:
    choice = page.locator("#model-quantization input")
    choose(page, model, "4-bit NF4 (bitsandbytes)")
    page.wait_for_function("words => document.querySelector('#go .summary').innerText.includes(words)", arg=SAYS)
    page.locator("#more-settings button").first.click()
    page.wait_for_function("() => document.querySelector('#model-quantization input').disabled")
    assert choice.input_value() == "4-bit NF4 (bitsandbytes)"
    assert SAYS in page.locator("#model-quantization").text_content()
    row = page.locator(".modules .row", has=page.locator('input[data-name="down_proj"]'))
    assert row.get_by_text("Full", exact=True).is_disabled()
    choose(page, "demo", "phi3")
    page.wait_for_function("() => !document.querySelector('#model-quantization input').disabled")
    assert choice.input_value() == "none"
    assert SAYS not in page.inner_text("#go .summary")
