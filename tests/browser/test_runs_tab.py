"""The Runs tab: order, longer training, a new name, deletion, each by its button."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradio_client import Client

from tests.support.lab import endless, wait_for
from trainer.config.schema import RunConfig


def test_order_longer_training_names_and_deletion(page: Any, client: Client, small: RunConfig) -> None:
    def start(title: str, config: RunConfig) -> str:
        return str(client.predict(replace(config, title=title).to_json(), api_name="/train"))

    def state(run: str) -> str:
        return str(client.predict(run, api_name="/run")["state"])

    def press(title: str, button: str) -> None:
        page.locator(".runs tbody tr", has_text=title).locator("input").check()
        page.locator("#run-actions h2", has_text=title).wait_for()
        page.locator(button).click()

    six_steps = replace(small, training=replace(small.training, max_steps=-1, num_train_epochs=0.4))
    beta = start("Beta", endless(small))
    start("Gamma", endless(replace(small, training=replace(small.training, num_train_epochs=5))))
    alpha = start("Alpha", six_steps)
    page.get_by_role("tab", name="Runs").click()
    press("Alpha", "#run-first")
    page.locator(".runs tbody tr", has_text="Alpha").locator(".pill.queued").wait_for()
    press("Beta", "#run-stop")
    wait_for(lambda: state(alpha) != "queued")  # for ever, if Gamma had gone first
    press("Gamma", "#run-stop")
    wait_for(lambda: state(alpha) == "finished")
    assert client.predict(alpha, api_name="/run")["step"] == 6
    page.locator(".runs tbody tr", has_text="Alpha").locator("input").check()
    page.locator("#run-epochs input").fill("0.4")
    press("Alpha", "#run-train-longer")
    wait_for(lambda: client.predict(alpha, api_name="/run")["step"] == 12)  # six steps, and six more
    wait_for(lambda: state(alpha) == "finished")
    page.locator(".runs tbody tr", has_text="Beta").locator("input").check()
    name = page.locator("#run-name textarea, #run-name input")
    wait_for(lambda: name.input_value() == "Beta")
    name.fill("Delta")
    press("Beta", "#run-rename-button")
    page.locator(".runs tbody tr", has_text="Delta").wait_for()
    press("Delta", "#run-delete")
    page.locator("#run-really").click()
    page.locator(".runs tbody tr", has_text="Delta").wait_for(state="detached")
    assert beta not in {row["id"] for row in client.predict(api_name="/runs")}
    press("Gamma", "#run-reuse")
    epochs = page.locator("#training-num_train_epochs").get_by_role("textbox")
    wait_for(lambda: epochs.input_value() == "5")
    page.wait_for_selector("#settings-source:has-text('Settings: from run Gamma')")
    page.locator("#live-status h2", has_text="Gamma").wait_for()
    epochs.fill("6")
    page.wait_for_selector("#settings-source:has-text('from run Gamma, changed')")
