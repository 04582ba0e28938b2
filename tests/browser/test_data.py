"""What a person sees of their data before Train: what it is, what is wrong with it, what the loss counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gradio_client import Client

from tests.data.test_mask_test import CALLS, NO, RESULT, THINKING_TOOLS, USER, YES
from tests.support import templates, tiny

Page = Any


def choose(page: Page, button: str, *files: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator(button).click()
    chooser.value.set_files([str(file) for file in files])


def test_a_file_is_understood_its_problems_named_and_left_out_on_demand(page: Page, tmp_path: Path) -> None:
    file, other = tmp_path / "my rows.jsonl", tmp_path / "more.csv"
    empty = {"question": "Why?", "answer": ""}
    good = [{"question": f"Where is {n}?", "answer": f"There <b>{n}</b>. " * (1 + n % 20)} for n in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*good, *[empty] * 12]) + "{broken\n")
    other.write_text("question,answer\nWho?,Me.\n")
    page.locator("#data-source label", has_text="File").click()
    choose(page, "#data-upload", file, other)
    page.wait_for_function(
        "document.querySelector('#data-file textarea, #data-file input')?.value.includes('more.csv')"
    )
    page.locator("#train").click()
    page.wait_for_selector('#summary .issues.refused:has-text("13 of 54 rows")')
    assert "bad_rows" not in page.inner_text("#summary")
    page.get_by_role("button", name="Show them").click()
    page.wait_for_selector("#data-example .example")
    page.wait_for_function("document.activeElement.matches('#data-problems .bad-rows')")
    overview = page.inner_text("#data-overview")
    assert "columns question and answer" in overview
    assert "54" in overview
    problems = page.inner_text("#data-problems")
    assert "13 of 54 rows" in problems
    assert "12 ×" in problems and "lines 41, 42," in problems and "1 × not valid JSON" in problems
    assert page.inner_text("#data-problems details").endswith("49, 50, 51, 52")
    assert page.locator("#data-example .t.counts").count() > 3
    assert page.locator("#data-example .t.special").first.inner_text() == "<s>"
    assert "<b>" in page.inner_text("#data-example .example"), "what is in the data is text"
    page.locator("#example-longest").click()
    page.wait_for_selector("#data-example .example .t.cut")
    page.wait_for_function("document.querySelectorAll('#data-chart .bars path').length > 0")
    page.locator("#data-suggest").click()
    page.wait_for_function("!document.querySelector('#data-example .example .t.cut')")
    page.wait_for_function("document.querySelector('#training-max_length input').value !== '128'")
    page.get_by_role("button", name="Skip these 13 rows").click()
    page.wait_for_selector('#data-problems:has-text("They are skipped")')
    assert page.locator("#data-bad_rows input").input_value() == "skip"
    page.keyboard.press("Escape")
    page.wait_for_selector("#data-sheet", state="hidden")
    assert "41 rows" in page.inner_text("#data-line")
    page.set_viewport_size({"width": 420, "height": 900})
    page.wait_for_function("['#go', '#settings'].every((name) => document.querySelector(name).offsetWidth <= 420)")
    page.set_viewport_size({"width": 1440, "height": 900})
    page.locator("#data-source label", has_text="Demo").click()
    page.wait_for_function("document.querySelector('#data-line').innerText.trim() === ''")


def test_columns_are_picked_and_a_file_of_no_use_says_so(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "fremd.jsonl"
    file.write_text("".join(json.dumps({"frage": f"Wo ist {n}?", "antwort": "Hier."}) + "\n" for n in range(8)))
    page.locator("#data-source label", has_text="File").click()
    page.locator("#data-open").click()
    page.wait_for_selector('#data-progress:has-text("No data")')
    page.keyboard.press("Escape")
    page.wait_for_selector("#data-sheet", state="hidden")
    choose(page, "#data-upload", file)
    page.wait_for_function("document.querySelector('#data-file textarea, #data-file input')?.value.includes('fremd')")
    page.locator("#data-open").click()
    page.wait_for_selector('#data-problems:has-text("no known shape")')
    page.get_by_text("Choose the columns").click()
    for name, column in (("prompt", "frage"), ("completion", "antwort")):
        page.locator(f"#data-{name}_column input").click()
        page.get_by_role("option", name=column).click()
        page.get_by_role("option", name=column).wait_for(state="hidden")  # its list closes slowly
    page.wait_for_selector('#data-overview:has-text("Picked as")')
    page.wait_for_selector("#data-example .example")
    shown = page.inner_text("#data-example .example")
    assert "Wo ist" in shown and "Hier." in shown, "the picked columns are what is trained on"
    assert page.locator("#data-example .t.counts").count() > 0
    for width in (1440, 420):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function("most => document.querySelector('#data-card').scrollWidth <= most", arg=width)


def test_a_long_check_is_shown_and_can_be_broken_off(page: Page, client: Client, tmp_path: Path) -> None:
    runs = client.predict(api_name="/runs")
    long, short = tmp_path / "long.jsonl", tmp_path / "short.jsonl"
    row = json.dumps({"question": "Where is it?", "answer": "There, where it was. " * 9}) + "\n"
    long.write_text(row * 200_000)
    short.write_text(row * 20)
    page.locator("#data-source label", has_text="File").click()
    choose(page, "#data-upload", long)
    page.wait_for_function("document.querySelector('#data-file textarea, #data-file input')?.value.includes('long')")
    for start, cancel, place in (
        ("#train", "#train-cancel", "#summary"),
        ("#data-open", "#data-cancel", "#data-progress"),
    ):
        page.locator(start).click()
        page.wait_for_selector(f'{place} .progress-text:has-text("%")')
        page.locator(cancel).click()
        page.wait_for_selector(f"{place} .progress", state="detached")
        assert page.locator(cancel).is_hidden()
    assert "canceled" in page.inner_text("#data-progress")
    page.keyboard.press("Escape")
    assert page.locator("#summary .issues").count() == 0
    assert len(client.predict(api_name="/runs")) == len(runs), "nothing was started"
    choose(page, "#data-upload", short)
    page.wait_for_function("document.querySelector('#data-file textarea, #data-file input')?.value.includes('short')")
    page.locator("#data-open").click()
    page.wait_for_selector("#data-example .example")


def test_who_is_who_is_chosen_and_what_is_not_used_is_listed(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    said = [{"role": who, "content": f"{who} speaks", "mood": "glad"} for who in ("sailor", "pirate", "parrot")]
    file.write_text("".join(json.dumps({"messages": said, "source": "ship", "id": n}) + "\n" for n in range(9)))
    page.locator("#data-source label", has_text="File").click()
    choose(page, "#data-upload", file)
    page.wait_for_function("document.querySelector('#data-file textarea, #data-file input')?.value.includes('talk')")
    page.locator("#data-open").click()
    page.wait_for_selector('#data-problems:has-text("sailor (9 messages), pirate (9 messages), parrot (9 messages)")')
    for name, role in (("sailor", "user"), ("pirate", "assistant"), ("parrot", "ignore")):
        page.locator(f'#data-names select[name="{name}"]').select_option(role)
    page.wait_for_selector("#data-example .example")
    assert page.locator("#data-names select").count() == 0
    shown = page.inner_text("#data-example .example")
    assert "sailor speaks" in shown and "pirate speaks" in shown and "parrot" not in shown
    overview = page.inner_text("#data-overview")
    assert "sailor is the user; pirate is the assistant; parrot is ignored" in overview
    assert "Not used: columns source (9 rows), id (9 rows); message field mood (18 messages)." in overview
    page.locator("#data-roles input, #data-roles textarea").fill("")
    page.keyboard.press("Tab")
    page.wait_for_selector("#data-names select")


def test_what_counts_is_compared_with_serving_and_chatml_gets_its_tokens(
    page: Page, models_dir: Path, tmp_path: Path
) -> None:
    tiny.save_model(models_dir / "thinker", "llama")
    templates.tokenizer(THINKING_TOOLS).save_pretrained(models_dir / "thinker")
    tiny.save_model(models_dir / "base", "llama", chat=False)
    file = tmp_path / "tools.jsonl"
    call = {**CALLS, "reasoning_content": "I need the weather."}
    row = {"messages": [USER, call, RESULT, NO, USER, YES]}
    file.write_text((json.dumps(row) + "\n") * 20)
    page.locator(".model-field input").fill("thinker")
    page.keyboard.press("Enter")
    page.wait_for_selector('.modules:has-text("llama")')
    page.locator("#data-source label", has_text="File").click()
    choose(page, "#data-upload", file)
    page.wait_for_function("document.querySelector('#data-file textarea, #data-file input')?.value.includes('tools')")
    page.locator("#data-open").click()
    page.wait_for_selector("#data-example .example")
    counts = "Answers: 40 of 40 count · Tool calls: 20 of 20 · Reasoning: {} of 20 · Last answers: 20 of 20"
    assert counts.format(0) in page.inner_text("#data-overview")
    page.locator("#mask-test").click()
    page.wait_for_selector(".mask-test")
    assert page.locator(".mask-test .verdict").all_inner_texts() == [
        "Same as in serving", "Differs from serving, as expected", "Same as in serving",
    ]  # fmt: skip
    assert page.locator(".mask-test .t.differs").first.inner_text().startswith("<think>")
    page.get_by_role("button", name="Keep the reasoning").click()
    page.wait_for_selector(f'#data-overview:has-text("{counts.format(20)}")')
    assert page.locator(".mask-test").count() == 0, "a result is that of what is shown"
    assert page.locator("#data-reasoning input").input_value() == "keep all of it"
    page.keyboard.press("Escape")
    page.locator(".model-field input").fill("base")
    page.keyboard.press("Enter")
    row = {"messages": [USER, YES]}
    file.write_text((json.dumps(row) + "\n") * 20)
    choose(page, "#data-upload", file)
    page.locator("#data-open").click()
    page.wait_for_selector('#data-problems:has-text("not tokens of this model")')
    page.wait_for_selector(".modules .row", state="attached")
    page.get_by_role("button", name="Add them as new tokens").click()
    page.wait_for_selector('#data-problems:not(:has-text("not tokens of this model"))')
    page.keyboard.press("Escape")
    page.wait_for_selector('#summary:has-text("the 2 new rows of model.embed_tokens")')
