"""The Compare tab: an own set, an experiment from the Train tab's form, its results, its report."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradio_client import Client

from tests.support.lab import endless, wait_for
from trainer.config.schema import RunConfig
from trainer.planning.scenarios import SIX


def load(page: Any, config: RunConfig, folder: Path) -> None:
    """Fill the form with a configuration."""
    (folder / "run.json").write_text(json.dumps(config.to_json()))
    with page.expect_file_chooser() as chooser:
        page.locator("#load-config").click()
    chooser.value.set_files(folder / "run.json")
    steps = page.locator("#training-max_steps").get_by_role("textbox")
    wait_for(lambda: steps.input_value() == str(config.training.max_steps))
    page.locator(".fact", has_text="phi3").wait_for()


def test_from_own_scenarios_to_a_report(page: Any, client: Client, small: RunConfig, tmp_path: Path) -> None:
    page.get_by_text("More settings").click()
    load(page, small, tmp_path)
    page.locator("#run-scenarios").click()
    page.wait_for_selector(".offers section >> nth=11")
    offers = page.locator(".offers > div")
    assert offers.count() == 12, "six scenarios, each by slices and by name"
    assert "same weights" in offers.nth(3).inner_text()
    assert offers.nth(3).locator("input").is_disabled()
    # three rates; with modules in full, two more for these
    page.wait_for_function("document.querySelector('#scenario-run').innerText === 'Start 36 runs'")
    page.locator("#scenario-rates input").click()
    page.get_by_role("option", name="As set").click()
    page.wait_for_function("document.querySelector('#scenario-run').innerText === 'Start 8 runs'")
    page.locator("#scenario-equal input").check()
    offers.filter(has_text="the budget of").first.wait_for()
    page.locator("#scenario-equal input").uncheck()
    page.locator("#scenario-seeds input").fill("0")
    page.wait_for_selector('.offers:has-text("between 1 and 20")')
    assert page.locator("#scenario-run").is_disabled()
    page.locator("#scenario-seeds input").fill("1")
    page.wait_for_selector(".offers section >> nth=11")
    for place in (0, 1, 2, 6, 7, 8):
        offers.nth(place).locator("input").uncheck()
    page.wait_for_function("document.querySelector('#scenario-run').innerText === 'Start 2 runs'")
    page.locator("#scenario-name").get_by_role("textbox").fill("Two <b>readings</b>")
    page.locator("#scenario-run").click()
    page.wait_for_function("document.querySelector('#compare-head h2')?.innerText === 'Two <b>readings</b>'")
    wait_for(lambda: [row["state"] for row in client.predict(api_name="/runs")[:2]] == ["finished"] * 2)
    page.wait_for_selector("#compare-head .pill.finished")
    page.wait_for_function("document.querySelector('#compare-head .verdict').innerText.includes('lowest')")
    page.wait_for_function("document.querySelector('#compare-chart .chart').data?.length === 2")
    assert page.locator("#compare-table tbody tr").count() == 2
    page.locator("#compare-axis label").nth(1).click()
    page.wait_for_function("document.querySelector('#compare-chart .chart').layout.xaxis.title.text === 'tokens'")
    page.locator("#compare-table th button", has_text="Trainable").click()
    assert "by name" in page.locator("#compare-table tbody tr").first.inner_text(), "fewest parameters first"
    with page.expect_download() as table:
        page.locator("#compare-table .csv").click()
    assert len(Path(table.value.path()).read_text().splitlines()) == 3
    with page.expect_download() as report:
        page.locator("#compare-report").click()
    with zipfile.ZipFile(report.value.path()) as archive:
        assert sorted(archive.namelist()) == ["report.html", "report.md", "runs.csv"]
        archive.extractall(tmp_path)
    alone = page.context.new_page()
    alone.goto((tmp_path / "report.html").as_uri())
    alone.wait_for_function("document.querySelectorAll('.chart .legend').length === 2")
    assert alone.locator("h1").inner_text() == "Two <b>readings</b>"
    alone.close()
    ids = [row["id"] for row in client.predict(api_name="/runs")[:2]]
    assert len(client.predict(ids, api_name="/compare")["pairs"]) == 1
    config = replace(endless(small), modules=SIX[0].modules).to_json()
    made = client.predict(config, "layers", True, 2, "1", api_name="/scenarios")
    assert [item["title"] for item in made["scenarios"]] == ["First third", "Middle third", "Last third"]
    page.locator(".experiments label", has_text="Thirds").click()
    page.locator("#compare-stop").click()
    page.wait_for_selector("#compare-head .pill.stopped")
    page.locator("#compare-resume").click()
    page.wait_for_selector("#compare-head .pill:is(.queued, .running)")
    assert page.locator("#compare-resume").is_hidden()
    assert "6 runs" in client.predict(made["id"], api_name="/stop")
