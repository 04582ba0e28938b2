"""The Model field: what it offers, by keyboard and by mouse, with the hub and without."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.browser.conftest import opened_page
from tests.support import app_process, hub
from trainer.config.schema import ModelConfig, RunConfig, Tick
from trainer.runs.store import RunStore

Page = Any


class NoPlan:
    def to_json(self) -> dict[str, Any]:
        return {}


class Station(NamedTuple):
    page: Page
    hub: hub.StandIn


def row(name: str, license: str = "mit", **values: Any) -> dict[str, Any]:
    found = {"id": name, "pipeline_tag": "text-generation", "downloads": 10, "gated": False}
    return found | {"tags": [f"license:{license}"] if license else []} | values


@pytest.fixture
def station(tmp_path: Path, models_dir: Path, context: Any) -> Iterator[Station]:
    """A page of an app that takes a stand-in for the hub, and has trained the tiny Llama before."""
    shutil.copytree(models_dir / "llama", tmp_path / "hub" / "own" / "small" / "main")
    config = RunConfig(model=ModelConfig("llama"), modules=(Tick("q_proj"),))
    RunStore(tmp_path / "runs").create(config, NoPlan(), state="stopped")  # type: ignore[arg-type]
    with hub.serving(tmp_path / "hub") as stand_in:
        stand_in.found = [
            row("own/small", "apache-2.0", safetensors={"parameters": {"BF16": 135_000_000}, "total": 135_000_000}),
            row("meta/Small-8B", "llama3.1", gated="manual"),
            row("own/<b>small</b>"),
        ]
        options = ("--models-dir", str(models_dir))
        with app_process.running(tmp_path, *options, **hub.environment(stand_in.url, tmp_path / "home")) as app:
            for page in opened_page(context, app.address):
                yield Station(page, stand_in)


def names(page: Page) -> list[str]:
    return [str(text) for text in page.locator("#model-list [role=option] .name").all_inner_texts()]


def test_a_model_is_found_and_chosen_and_without_the_hub_the_field_still_works(station: Station) -> None:
    page, field = station.page, station.page.get_by_role("combobox", name="Model", exact=True)
    field.click()
    page.wait_for_selector("#model-list [role=option]")
    assert field.get_attribute("aria-expanded") == "true"
    assert names(page)[:2] == ["llama", "demo"]  # the one that was used before comes first
    assert "gpt2" in names(page) and station.hub.asked == []

    page.keyboard.type("small")
    page.get_by_text("On the Hugging Face hub").wait_for()
    assert names(page) == ["own/small", "meta/Small-8B"]
    options = page.locator("#model-list [role=option]").all_inner_texts()
    assert "135 M" in options[0] and "apache-2.0" in options[0]
    assert "llama3.1 · gated" in options[1]
    page.keyboard.press("ArrowDown")
    chosen = page.locator("#model-list [aria-selected=true]")
    assert field.get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    page.keyboard.press("Escape")
    assert field.input_value() == "demo" and not page.locator("#model-list").is_visible()

    field.fill("small")
    page.get_by_text("On the Hugging Face hub").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert field.input_value() == "own/small"
    page.locator(".fact", has_text="llama").wait_for()
    page.get_by_text("downloaded first: 1").wait_for()

    station.hub.silent = 90.0
    field.fill("phi")
    page.get_by_text("cannot be reached").wait_for()
    assert names(page) == ["phi3"]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    assert field.input_value() == "phi3"
    page.locator(".fact", has_text="phi3").wait_for()

    field.fill("lama")
    page.keyboard.press("Enter")
    page.get_by_text(re.compile("no model folder models/lama.*mean llama\\?", re.S)).wait_for()
