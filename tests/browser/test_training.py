"""The main job, end to end, three times: in the browser, through gradio_client, on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gradio_client import Client
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.lab import PATIENCE, wait_for
from trainer import demo
from trainer.cli.main import main
from trainer.config.schema import RunConfig, default_config
from trainer.planning.scenarios import scenario

ROOT = Path(__file__).parents[2]
STEPS = 12
SEEN_STEPS = 60
"""Enough of them to see the chart gain points, second by second."""


def short_demo() -> RunConfig:
    config = replace(default_config(), modules=scenario("5").modules, title="A short one")
    return replace(config, training=replace(config.training, max_steps=STEPS, eval_steps=STEPS))


def check_adapter(archive: Path, folder: Path) -> None:
    """The zip loads in plain PEFT on the demo model and changes its answers; twice it gives the same logits."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    ids = AutoTokenizer.from_pretrained(demo.MODEL_DIR)("What is the weather like?", return_tensors="pt")["input_ids"]
    found = []
    for _ in range(2):
        base = AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32).eval()
        plain = base(input_ids=ids).logits
        found.append(PeftModel.from_pretrained(base, folder).eval()(input_ids=ids).logits)
        assert float((found[-1] - plain).abs().max()) > 0.1
    assert torch.equal(found[0], found[1])


def points(page: Any) -> int:
    """Points of the raw loss curve that the browser draws."""
    return int(
        page.evaluate("document.querySelector('#loss-chart .js-plotly-plot')?.data?.[0]?.x?.length ?? 0")
        or page.evaluate(
            "(() => { const d = document.querySelector('#loss-chart .js-plotly-plot')?._fullData?.[0]; "
            "return d ? d._length ?? 0 : 0; })()"
        )
    )


def check_samples(page: Any) -> None:
    """Three held-out prompts with their newest answers; stepping back shows those from before training."""
    answers = page.locator("#live-samples .model dd")
    newest = answers.all_inner_texts()
    assert len(newest) == page.locator("#live-samples .prompt").count() == 3
    page.get_by_role("button", name="Earlier evaluation").click()
    assert page.locator("#live-samples output").inner_text() == "before training · evaluation 1 of 2"
    assert page.get_by_role("button", name="Earlier evaluation").is_disabled()
    assert answers.all_inner_texts() != newest
    page.get_by_role("button", name="Later evaluation").click()
    assert answers.all_inner_texts() == newest


def test_tick_train_watch_reload_download(page: Any, app: str, tmp_path: Path) -> None:
    page.get_by_text("More settings").click()
    page.locator("#training-max_steps").get_by_role("textbox").fill(str(SEEN_STEPS))
    page.locator("#title").get_by_role("textbox").fill("Browser <b>run</b>")
    page.locator('input[data-name="k_proj"]').uncheck()
    page.locator("#train").click()
    page.wait_for_function("document.querySelector('#live-status h2')?.innerText === 'Browser <b>run</b>'")
    page.wait_for_function("+document.querySelector('#live-status .progress').getAttribute('aria-valuenow') >= 2")
    first = wait_for(lambda: points(page))
    wait_for(lambda: points(page) > first)
    page.reload()
    page.wait_for_function("document.querySelector('#live-status h2')?.innerText === 'Browser <b>run</b>'")
    wait_for(lambda: points(page) > first)
    page.wait_for_selector("#live-status .pill.finished")
    wait_for(lambda: points(page) == SEEN_STEPS)
    check_samples(page)
    second = page.context.new_page()
    second.goto(app)
    second.wait_for_function("document.querySelector('#live-status h2')?.innerText === 'Browser <b>run</b>'")
    wait_for(lambda: points(second) == SEEN_STEPS)
    second.close()
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "adapter.zip")
    check_adapter(tmp_path / "adapter.zip", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "run_config.json").read_text())
    assert [tick["name"] for tick in config["modules"]] == [
        tick.name for tick in scenario("5").modules if tick.name != "k_proj"
    ]


def test_a_double_click_on_train_starts_one_run(page: Any) -> None:
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_selector(".runs tbody tr, .runs .empty:visible")
    before = page.locator(".runs tbody tr").count()
    page.get_by_role("tab", name="Train").click()
    page.locator("#train").dblclick()
    page.wait_for_selector("#live-status .pill.starting, #live-status .pill.running, #live-status .pill.queued")
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_timeout(4000)  # a second run would have come by now
    assert page.locator(".runs tbody tr").count() == before + 1
    page.locator(".runs tbody tr [type=radio]").first.check()
    page.locator("#run-stop").click()
    page.wait_for_selector(".runs tbody .pill.stopped")


@pytest.mark.full
def test_the_same_through_gradio_client(client: Client, tmp_path: Path) -> None:
    config = short_demo().to_json()
    kinds = client.predict("demo", api_name="/modules")["kinds"]
    assert {"q_proj", "down_proj", "lm_head"} <= {kind["name"] for kind in kinds}
    plan = client.predict(config, api_name="/plan")
    assert plan["trainable"] > 0
    assert plan["issues"] == []
    run = client.predict(config, api_name="/train")
    wait_for(lambda: client.predict(run, api_name="/run")["state"] == "finished")
    found = client.predict(run, api_name="/run")
    assert (found["step"], [at["step"] for at in found["samples"]["answers"]]) == (STEPS, [0, STEPS])
    assert client.predict(api_name="/runs")[0]["id"] == run
    check_adapter(Path(client.predict(run, api_name="/export")), tmp_path / "adapter")
    with pytest.raises(Exception, match="lora_alpha"):
        client.predict(config | {"adapter": {"lora_alfa": 1}}, api_name="/plan")


@pytest.mark.full
def test_the_same_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ["--runs-dir", str(tmp_path / "runs")]

    def lab(*words: str, code: int = 0) -> str:
        assert main([*runs, *words]) == code
        out, err = capsys.readouterr()
        return out if code == 0 else err

    found = json.loads(lab("modules", "demo", "--json"))
    assert sum(kind["parameters"] for kind in found["kinds"] if not kind["slice_of"]) == found["parameters"]
    file = tmp_path / "run.json"
    file.write_text(json.dumps(short_demo().to_json()))
    plan = json.loads(lab("plan", str(file), "--json"))
    assert [receipt["matched"] for receipt in plan["receipts"]] == [found["layers"]] * 7
    # in a process of its own, as a person calls it
    command = [sys.executable, "-m", "trainer", *runs, "train", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr, done.stderr
    assert f"step     {STEPS:2}" in done.stdout
    (run,) = json.loads(lab("runs", "--json"))
    assert (run["state"], run["step"]) == ("finished", STEPS)
    found = json.loads(lab("samples", run["id"], "--json"))
    assert [len(at["answers"]) for at in found["answers"]] == [len(found["prompts"])] * 2 == [3, 3]
    assert found["prompts"][0]["reference"] in lab("samples", run["id"])
    assert lab("export", run["id"], "-o", str(tmp_path / "out.zip")).strip() == str(tmp_path / "out.zip")
    check_adapter(tmp_path / "out.zip", tmp_path / "adapter")
    assert "written" in lab("export", run["id"], "-o", str(tmp_path / "none" / "out.zip"), code=2)
    # the configuration of a run runs again as it is
    rerun = lab("train", str(tmp_path / "runs" / run["id"] / "config.json"), "--json")
    rows = [json.loads(line) for line in rerun.splitlines()]
    assert rows[0]["type"] == "run"
    assert rows[-1]["state"] == "finished"
    assert [row["loss"] for row in rows if row["type"] == "metrics"][-1] == pytest.approx(run["loss"], rel=1e-6)
    file.write_text('{"adapter": {"r": 0, "alpha": 3}, "training": {"learning_rate": "fast"}}')
    assert len(lab("plan", str(file), code=2).strip().splitlines()) >= 3


def test_one_click_skips_invalid_rows_and_trains(page: Any, tmp_path: Path) -> None:
    rows = [{"question": f"Where is {n}?", "answer": "There." if n < 12 else ""} for n in range(14)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page.locator("#data-source label", has_text="File").click()
    with page.expect_file_chooser() as chooser:
        page.locator("#data-upload").click()
    chooser.value.set_files(file)
    page.wait_for_function("document.querySelector('#data-file :is(input, textarea)').value.includes('rows')")
    shown = page.inner_text("#live-status")
    page.locator("#train").click()
    page.get_by_role("button", name="Skip these 2 rows and train").click()
    page.wait_for_function("shown => document.querySelector('#live-status').innerText !== shown", arg=shown)
    page.wait_for_selector("#summary .issues", state="detached")
    page.wait_for_selector("#live-status .pill.finished")
