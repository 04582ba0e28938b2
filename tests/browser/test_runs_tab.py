"""The Runs tab: order, longer training, a new name, deletion, each by its button."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradio_client import Client

from tests.support.lab import wait_for
from trainer.config.schema import default_config
from trainer.planning.scenarios import scenario


def short(title: str, epochs: float) -> dict[str, Any]:
    config = replace(default_config(), modules=scenario("5").modules, title=title)
    return replace(config, training=replace(config.training, num_train_epochs=epochs, eval_steps=100)).to_json()


def test_order_longer_training_names_and_deletion(page: Any, client: Client) -> None:
    def state(run: str) -> str:
        return str(client.predict(run, api_name="/run")["state"])

    def press(title: str, button: str) -> None:
        page.locator(".runs tbody tr", has_text=title).locator("input").check()
        page.locator("#run-actions h2", has_text=title).wait_for()
        page.locator(button).click()

    first, second, third = (
        client.predict(short(title, epochs), api_name="/train")
        for title, epochs in (("Alpha", 0.02), ("Beta", 5), ("Gamma", 5))
    )
    page.get_by_role("tab", name="Runs").click()
    press("Gamma", "#run-first")
    wait_for(lambda: state(first) == "finished")
    wait_for(lambda: state(third) in ("starting", "running"))
    assert state(second) == "queued", "the one put first goes first"
    page.locator(".runs tbody tr", has_text="Alpha").locator("input").check()
    page.locator("#run-epochs input").fill("0.02")
    press("Alpha", "#run-train-longer")
    wait_for(lambda: state(first) == "queued")
    press("Beta", "#run-stop")
    press("Gamma", "#run-stop")
    wait_for(lambda: state(first) == "finished")
    assert client.predict(first, api_name="/run")["step"] == 12, "six steps, and six more"
    page.locator(".runs tbody tr", has_text="Beta").locator("input").check()
    name = page.locator("#run-name textarea, #run-name input")
    wait_for(lambda: name.input_value() == "Beta")
    name.fill("Delta")
    press("Beta", "#run-rename-button")
    page.locator(".runs tbody tr", has_text="Delta").wait_for()
    press("Delta", "#run-delete")
    page.locator("#run-really").click()
    page.locator(".runs tbody tr", has_text="Delta").wait_for(state="detached")
    assert second not in {row["id"] for row in client.predict(api_name="/runs")}
    press("Gamma", "#run-reuse")
    epochs = page.locator("#training-num_train_epochs").get_by_role("textbox")
    wait_for(lambda: epochs.input_value() == "5")
