"""What a person sees and does on the Train tab."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.support import tiny
from trainer.config.schema import default_config

Page = Any


def summary_after(page: Page, act: Any) -> str:
    """The summary once it has answered `act`."""
    before = page.inner_text("#go .summary")
    act()
    page.wait_for_function("old => document.querySelector('#go .summary').innerText !== old", arg=before)
    return str(page.inner_text("#go .summary"))


def test_everything_is_in_sight_without_scrolling_and_nothing_scrolls_sideways(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440
    for place in ('input[data-name="q_proj"]', 'input[data-name="lm_head"]', "#go .summary", "#train", "#col-live"):
        box = page.locator(place).bounding_box()
        assert box["y"] >= 0 and box["y"] + min(box["height"], 300) <= 900, place
    for width in (1024, 420):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_tick_changes_the_summary_and_shows_what_it_matched(page: Page) -> None:
    box = page.locator('input[data-name="q_proj"]')
    assert box.is_checked()
    row = page.locator(".modules .row", has=box)
    assert re.search(r"(\d+) of \1 layers.* rows 0–\d+ of qkv_proj", row.inner_text())
    assert "Trainable" in summary_after(page, box.uncheck)
    assert "Part of qkv_proj" in row.inner_text()
    # a fused module and its slice are never ticked together
    page.locator('input[data-name="qkv_proj"]').check()
    assert not box.is_checked()
    page.locator('input[data-name="k_proj"]').check()
    assert not page.locator('input[data-name="qkv_proj"]').is_checked()


def test_names_that_match_nothing_stay_and_say_so(page: Page) -> None:
    text = summary_after(page, lambda: page.select_option("#preset", "The study’s six/4"))
    assert "fc1, fc2 match nothing" in text
    missing = page.locator(".group.missing")
    assert missing.locator(".row").count() == 2
    assert "gate_up_proj and down_proj" in missing.inner_text()


def test_ticks_are_kept_as_a_preset_that_scenarios_know_too(page: Page) -> None:
    page.select_option("#preset", label="Attention")
    ticked = page.locator(".modules .row input[type=checkbox]:checked")
    assert [box.get_attribute("data-name") for box in ticked.all()] == ["qkv_proj", "o_proj"]
    page.locator('input[data-name="lm_head"]').check()
    page.click("#preset-save")
    page.keyboard.type("Attention and head")
    page.keyboard.press("Enter")
    page.wait_for_selector("#preset optgroup[label=Presets]", state="attached")
    page.select_option("#preset", label="MLP")
    page.select_option("#preset", label="Attention and head")
    assert page.locator('input[data-name="lm_head"]').is_checked()
    page.click("#run-scenarios")
    page.locator("#scenario-set input").click()
    page.get_by_role("option", name="Presets").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Train").click()
    page.click("#preset-delete")
    page.wait_for_selector("#preset optgroup[label=Presets]", state="detached")


def test_train_with_problems_starts_nothing_and_shows_them_all(page: Page) -> None:
    rate = page.locator("#training-learning_rate").get_by_role("textbox")
    rate.fill("fast")
    page.locator("#adapter-r").get_by_role("textbox").fill("0")
    page.click("#train")
    page.wait_for_selector(".issues.refused")
    text = page.inner_text(".issues.refused")
    assert "2 problems" in text and 'Learning rate: "fast"' in text and "Rank r: 0" in text
    assert rate.input_value() == "fast"
    assert page.locator("#live-status .pill").count() == 0
    # the fields are marked, the first has the focus, and no figures stand beside values that they do not belong to
    marked = page.locator("[aria-invalid=true]")
    page.wait_for_function("document.activeElement.closest('#training-learning_rate')")
    assert page.locator("#adapter-r .field-error").inner_text() == "0 is too small. Use at least 1."
    for field in marked.all():
        assert page.locator(f"#{field.get_attribute('aria-errormessage')}").is_visible()
    assert marked.count() == 2
    assert page.locator("#summary .figures dd").all_inner_texts() == ["—"] * 4
    assert "No figures until Rank r and Learning rate are valid" in page.inner_text("#summary")
    page.locator("#adapter-r").get_by_role("textbox").fill("4")
    page.wait_for_function("document.querySelectorAll('[aria-invalid=true]').length === 1")
    page.get_by_text("More settings").click()
    page.locator("#training-seed").get_by_role("textbox").fill("-1")
    page.get_by_text("More settings").click()
    rate.fill("1e-3")
    page.wait_for_selector("#summary .issues:has-text('Seed: -1')")
    page.click("#train")  # opens what hides the field
    page.wait_for_function("document.activeElement.closest('#training-seed')")


def test_a_model_that_cannot_be_read_says_why(page: Page) -> None:
    page.get_by_label("Model", exact=True).fill("<b>no</b> model")
    page.keyboard.press("Enter")
    page.wait_for_selector(".notice.failed")
    assert "<b>no</b> model”" in page.inner_text(".notice.failed")


def test_the_browser_keeps_the_form_and_the_page_says_whose_settings_it_shows(page: Page, app: str) -> None:
    def shows(opened: Page, whose: str, length: str) -> None:
        opened.wait_for_selector(f"#settings-source:has-text('Settings: {whose}')")
        opened.wait_for_function(f"document.querySelector('#training-max_length input').value === '{length}'")

    shows(page, "defaults", "128")
    page.locator('input[data-name="q_proj"]').uncheck()
    page.locator("#training-max_length").get_by_role("textbox").fill("64")
    shows(page, "edited", "64")
    page.wait_for_function("localStorage.getItem('lab-settings').includes('\"training.max_length\":\"64\"')")
    second = page.context.new_page()
    second.goto(app)
    shows(second, "last used here", "64")
    assert not second.locator('input[data-name="q_proj"]').is_checked()
    second.locator("#training-max_length").get_by_role("textbox").fill("32")
    second.wait_for_function("localStorage.getItem('lab-settings').includes('\"training.max_length\":\"32\"')")
    page.reload()
    shows(page, "last used here", "64")  # a tab keeps its own
    # what a browser kept of another version, or what is no longer valid, is ignored and said
    kept = {"model.name": "demo", "adapter.r": "0", "adapter.lora_magic": "9", "training.max_length": "48"}
    second.evaluate("kept => sessionStorage.setItem('lab-settings', kept)", json.dumps({"values": kept}))
    second.reload()
    shows(second, "last used here", "48")
    said = second.inner_text("#settings-source")
    assert "adapter.lora_magic: This setting no longer exists." in said and "Rank r: 0 is too small." in said
    second.get_by_role("button", name="Reset to defaults").click()
    shows(second, "defaults", "128")
    assert second.locator('input[data-name="q_proj"]').is_checked()
    second.close()


def test_an_empty_page_says_what_to_do(page: Page) -> None:
    assert "press Train" in page.inner_text("#live-status")
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_selector("#runs-table .empty:visible")
    assert "Train tab" in page.inner_text("#runs-table .empty")


def test_a_loaded_configuration_is_shown_whole_and_a_broken_one_says_all(page: Page, tmp_path: Path) -> None:
    def choose(name: str) -> None:
        with page.expect_file_chooser() as chooser:
            page.locator("#load-config").click()
        chooser.value.set_files(tmp_path / name)

    config = default_config("llama").to_json() | {"title": "Loaded", "modules": [{"name": "q_proj"}, {"name": "fc9"}]}
    config["adapter"]["r"], config["data"]["system_prompt"], config["training"]["max_length"] = 5, "Be brief.", 64
    (tmp_path / "run.json").write_text(json.dumps(config))
    (tmp_path / "bad.json").write_text('{"adapter": {"r": 0, "alpha": 3}}')
    page.get_by_text("More settings").click()
    choose("bad.json")
    message = page.locator(".toast-body", has_text="adapter.r")
    message.wait_for()
    assert "alpha" in message.inner_text()
    choose("run.json")
    page.locator(".fact", has_text="llama").wait_for()
    page.wait_for_function("document.querySelector('#adapter-r textarea, #adapter-r input').value === '5'")
    assert page.locator("#title textarea, #title input").input_value() == "Loaded"
    assert page.locator('input[data-name="q_proj"]').is_checked()
    assert page.locator('.missing input[data-name="fc9"]').is_checked()
    assert not page.locator('input[data-name="k_proj"]').is_checked()


def test_the_memory_s_parts_open_and_what_fits_is_said(page: Page) -> None:
    parts = page.locator(".summary .memory table")
    text = summary_after(page, page.locator('input[data-name="q_proj"]').uncheck)
    assert re.search(r"RAM( free)?\. Fits batch [\d,]+ at length 128, or batch 1 at length 1,024\.", text)
    page.click(".summary .memory summary")
    assert parts.is_visible() and "activations" in parts.inner_text()
    page.click(".summary .memory summary")
    assert not parts.is_visible()


def test_few_rows_are_warned_of_and_one_click_gives_enough_steps(page: Page, tmp_path: Path) -> None:
    page.locator("#data-source label", has_text="File").click()
    with page.expect_file_chooser() as chooser:
        page.locator("#data-upload").click()
    chooser.value.set_files(tiny.save_rows(tmp_path / "rows.jsonl", 50))
    cure = page.locator("#summary .cure")
    cure.wait_for()
    assert re.search("48 .* 6 steps .* 8 and 1 epoch", page.inner_text("#summary"))
    assert re.findall(r"\d+", cure.inner_text()) == ["4", "3"], "batch size and epochs"
    page.locator("#adapter-r").get_by_role("textbox").fill("8")
    cure.click()
    cure.wait_for(state="detached")
    fields = {"training-per_device_train_batch_size": "4", "training-num_train_epochs": "3", "adapter-r": "8"}
    for field, value in fields.items():
        assert page.locator(f"#{field}").get_by_role("textbox").input_value() == value


def test_a_tick_takes_a_learning_rate_of_its_own(page: Page) -> None:
    row = page.locator(".modules .row", has=page.locator('input[data-name="q_proj"]'))
    row.locator(".more").click()
    rate = row.locator('[data-key="lr"]')
    rate.fill("2e-4")
    rate.press("Tab")
    row.locator(".note", has_text="of qkv_proj, lr 2e-4").wait_for()
    assert rate.input_value() == "2e-4"
    rate.fill("7")
    rate.press("Tab")
    page.locator("#summary .issues", has_text="q_proj, lr: 7 ").wait_for()
