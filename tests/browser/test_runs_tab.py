"""The Runs tab: order, longer training, a new name, deletion, each by its button."""

from __future__ import annotations

import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradio_client import Client

from tests.support.app_process import App
from tests.support.lab import endless, wait_for
from trainer.config.schema import RunConfig


def test_order_longer_training_names_and_deletion(
    page: Any, client: Client, small: RunConfig, running_app: App
) -> None:
    def start(title: str, config: RunConfig) -> str:
        return str(client.predict(replace(config, title=title).to_json(), api_name="/train"))

    def state(run: str) -> str:
        return str(client.predict(run, api_name="/run")["state"])

    def adapter_of(run: str) -> Path:
        return running_app.folder / "runs" / run / "adapter"

    def press(title: str, button: str) -> None:
        page.locator(".runs tbody tr", has_text=title).locator("[type=radio]").check()
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
    page.locator(".runs tbody tr", has_text="Alpha").locator("[type=radio]").check()
    page.locator("#run-epochs input").fill("0.4")
    press("Alpha", "#run-train-longer")
    wait_for(lambda: client.predict(alpha, api_name="/run")["step"] == 12)  # six steps, and six more
    wait_for(lambda: state(alpha) == "finished")
    page.locator(".runs tbody tr", has_text="Beta").locator("[type=radio]").check()
    name = page.locator("#run-name textarea, #run-name input")
    wait_for(lambda: name.input_value() == "Beta")
    name.fill("Delta")
    press("Beta", "#run-rename-button")
    page.locator(".runs tbody tr", has_text="Delta").wait_for()
    press("Delta", "#run-delete")
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="detached")
    page.locator(".selection input").check()
    rows = page.locator(".runs tbody tr").count()
    page.get_by_text(f"{rows} selected", exact=True).wait_for()
    page.locator("[data-action=clear]").click()
    page.locator(".runs tbody tr", has_text="Delta").locator("[type=checkbox]").check()
    page.get_by_text("1 selected", exact=True).wait_for()
    page.locator("[data-action=stop]").click()
    page.locator("#batch-results", has_text="Delta: It has already ended.").wait_for()
    page.locator("[data-action=delete]").click()
    assert page.locator("dialog li").all_inner_texts() == ["Delta"]
    page.locator("#run-really").click()
    page.locator("#batch-results", has_text="Deleted 1 run.").wait_for()
    page.locator(".runs tbody tr", has_text="Delta").wait_for(state="detached")
    assert beta not in {row["id"] for row in client.predict(api_name="/runs")}
    page.locator(".runs tbody tr", has_text="Alpha").locator("[type=radio]").check()
    page.locator("#run-actions h2", has_text="Alpha").wait_for()
    page.route(re.compile("/gradio_api/(queue|run)/"), lambda _route: None)  # Gradio has forgotten this page
    page.locator(".settings-of summary").click()
    page.locator("[data-form=command]").click()
    page.locator(".settings-of pre", has_text="--set model.name=phi3").wait_for()
    with page.expect_download() as settings:
        page.locator(".settings-of .save").click()
    assert settings.value.suggested_filename == f"{alpha}.sh"
    page.locator(".log-of summary").click()
    page.locator(".log-of .note", has_text="line").wait_for()
    page.locator(".log-of input").fill("no such text")
    page.locator(".log-of .note", has_text="No line matches.").wait_for()
    with page.expect_download() as adapter:
        page.locator("#run-download").click()
    with zipfile.ZipFile(adapter.value.path()) as archive:
        assert "adapter_model.safetensors" in archive.namelist()
    (adapter_of(alpha) / "adapter_model.safetensors").unlink()
    page.locator("#run-download").click()
    page.locator(".download-note.failed", has_text="has no adapter yet").wait_for()
    page.unroute_all()
    press("Gamma", "#run-reuse")
    epochs = page.locator("#training-num_train_epochs").get_by_role("textbox")
    wait_for(lambda: epochs.input_value() == "5")
    page.wait_for_selector("#settings-source:has-text('Settings: from run Gamma')")
    page.locator("#live-status h2", has_text="Gamma").wait_for()
    epochs.fill("6")
    page.wait_for_selector("#settings-source:has-text('from run Gamma, changed')")
