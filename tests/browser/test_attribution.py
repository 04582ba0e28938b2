"""What each module earned, on the Runs tab: measured by a button, shown as a table and a heatmap, and cut down."""

from __future__ import annotations

import zipfile
from typing import Any

from gradio_client import Client

from tests.support.lab import wait_for
from trainer.config.schema import RunConfig


def test_a_run_is_measured_and_cut_down(page: Any, client: Client, small: RunConfig) -> None:
    run = str(client.predict(small.to_json(), api_name="/train"))
    wait_for(lambda: client.predict(run, api_name="/run")["state"] == "finished")
    page.get_by_role("tab", name="Runs").click()
    page.locator(".runs tbody tr", has_text=small.title).locator("[type=radio]").first.check()
    page.locator("#run-earned button", has_text="What each module earned").click()
    page.locator("#earned-status", has_text="by this run's own speed").wait_for()
    page.locator("#earned-measure").click()
    page.locator("#earned-stop").wait_for()
    table = page.locator("#earned-result .earned")
    table.wait_for()
    assert sorted(table.locator("tbody th").all_inner_texts()) == ["lm_head", "o_proj", "q_proj", "v_proj"]
    assert client.predict(run, api_name="/run")["attribution"]["adds_up"]
    heat = page.locator("#earned-result .heat")
    assert heat.locator("tbody th").all_inner_texts() == ["0", "1", "2", "outside"]
    shown = page.locator("#earned-result").inner_text()
    assert "% off, with 5 points of the path" in shown
    assert "Retraining without a module usually costs far less than its share" in shown
    page.locator("#earned-cut").click()
    page.locator("#cut-result tbody th", has_text="95 %").wait_for()
    with page.expect_download() as adapter:
        page.locator("#cut-download").click()
    with zipfile.ZipFile(adapter.value.path()) as archive:
        assert "cut to 99 %" in archive.read("README.md").decode()
    page.locator("#earned-without input[name=q_proj]").check()
    page.locator("#earned-retrain").click()
    page.locator("#earned-compare").click()
    page.get_by_text("2 runs compared").wait_for()
    again = next(row for row in client.predict(api_name="/runs") if row["id"] != run)
    assert again["name"] == f"{small.title} without q_proj"
    assert "q_proj" not in again["modules"]
    wait_for(lambda: client.predict(again["id"], api_name="/run")["state"] == "finished")
