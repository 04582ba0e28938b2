"""The live panel: what every state offers, who has the device, the tab's title, and the notification at the end."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from gradio_client import Client
from playwright.sync_api import expect

from tests.support.lab import PATIENCE, endless
from trainer.config.schema import RunConfig

expect.set_options(timeout=PATIENCE * 1000)
APP = "LoRA Module Lab"
SPY = """window.announced = [];
window.Notification = class {
  static permission = "default";
  static async requestPermission() { this.permission = "granted"; }
  constructor(title, { body, silent }) { window.announced.push([title, body, silent]); }
}"""


def buttons(page: Any) -> list[str]:
    """The labels of the buttons, as they are seen from left to right."""
    seen = page.locator("#live-buttons button:visible").all()
    return [button.inner_text() for button in sorted(seen, key=_place)]


def _place(button: Any) -> tuple[int, int]:
    box = button.bounding_box()
    return round(box["y"]), round(box["x"])


def test_every_state_says_what_is_next_and_offers_it(page: Any, client: Client, small: RunConfig) -> None:
    def start(title: str, config: RunConfig) -> str:
        return str(client.predict(replace(config, title=title).to_json(), api_name="/train"))

    def show(title: str, state: str) -> None:
        page.get_by_role("tab", name="Runs").click()
        # the rows are redrawn as the runs go on
        page.locator(".runs tbody tr", has_text=title).locator("[type=radio]").evaluate("input => input.click()")
        page.locator("#run-actions h2", has_text=title).wait_for()
        page.locator("#run-open").click()
        page.locator("#live-status h2", has_text=title).wait_for()
        page.wait_for_selector(f"#live-status .pill.{state}")

    status = page.locator("#live-status")
    page.add_init_script(SPY)
    page.reload()
    page.wait_for_selector(".modules .row")
    three_epochs = replace(small, training=replace(small.training, num_train_epochs=3))
    start("Anna", endless(three_epochs))
    bert = start("Bert", endless(small))
    start("Cora", endless(small))
    page.wait_for_selector("#live-status .pill.running")
    expect(page).to_have_title(re.compile(rf"\d+ % · Anna – {APP}"))
    expect(page.locator("#live-compare")).to_be_visible()
    assert buttons(page) == ["Stop", "Compare", "New run like this"]
    page.locator("#live-notify input").check()
    expect(page.locator(".device summary")).to_have_text(re.compile(r"CPU \d.* % · RAM [\d.]+ of \d+ GB"))
    page.locator(".device summary").click()
    expect(page.locator(".device .part-of")).to_contain_text(re.compile(r"Anna[\d.]+ cores · \d+ MB"))

    show("Cora", "queued")
    expect(status).to_contain_text("2nd of 2 in the queue. “Anna” has had the device since")
    expect(status).to_contain_text("(started from the page)")
    assert buttons(page) == ["Put first", "Remove from queue", "New run like this"]
    page.locator("#live-first").click()
    expect(status).to_contain_text("1st of 2 in the queue.")
    expect(page.locator("#live-first")).to_be_hidden()
    page.locator("#stop").click()
    expect(status).to_contain_text("Taken out of the queue. Resume starts from the beginning.")

    show("Bert", "queued")
    show("Anna", "running")
    client.predict(bert, api_name="/stop")  # the page has shown it, and does not any more
    page.locator("#stop").click()
    page.wait_for_selector("#live-status .pill.stopped")
    expect(status).to_contain_text(
        re.compile(r"Stopped\. The adapter so far is saved\. Resume continues from step \d")
    )
    assert buttons(page) == ["Resume", "Download adapter", "Train longer", "Compare", "New run like this"]
    expect(page).to_have_title(f"stopped · Anna – {APP}")
    page.wait_for_function("announced.length === 3")
    announced = {title: (body, silent) for title, body, silent in page.evaluate("announced")}
    assert announced.keys() == {"Cora: stopped", "Bert: stopped", "Anna: stopped"}
    assert (
        re.match(r"Eval loss [\d.]+\. Trained for ", announced["Anna: stopped"][0]) and announced["Anna: stopped"][1]
    )

    page.locator("#live-again").click()
    expect(page.locator("#training-num_train_epochs").get_by_role("textbox")).to_have_value("3")
    page.locator("#live-compare").click()
    expect(page.locator(".picker label.chosen .name")).to_have_text("Anna")
    page.get_by_role("tab", name="Train").click()
    page.locator("#live-resume").click()
    page.wait_for_selector("#live-status .pill:is(.starting, .running)")
    page.locator("#stop").click()
    page.wait_for_selector("#live-status .pill.stopped")
    page.reload()
    page.wait_for_selector("#live-status .pill.stopped")
    expect(page).to_have_title(APP)  # what had ended before is no news
