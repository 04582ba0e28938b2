"""A use case is the same wherever it is called from, and does its work once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from tests.support import tiny
from tests.support.lab import open_lab
from trainer.cli.main import main
from trainer.common.progress import ProgressMonitor
from trainer.config import validation
from trainer.config.schema import RunConfig
from trainer.execution.analysis import LocalAnalysis
from trainer.planning.plan import make_plan
from trainer.service import Lab, data, planning
from ui.form import FILE, TICKS
from ui.tabs.train import TrainTab


@pytest.fixture
def lab(tmp_path: Path, models_dir: Path) -> Iterator[Lab]:
    lab = open_lab(tmp_path, models_dir)
    yield lab
    lab.close()


@pytest.fixture
def tab(lab: Lab) -> TrainTab:
    with gr.Blocks() as page:
        return TrainTab(lab, page)


def choose(tab: TrainTab, model: str) -> dict[str, Any]:
    """The values of the Train tab's inputs once a model is chosen and read."""
    values = {path: component.value for path, component in tab.form.components.items()} | {"model.name": model}
    panel, _, *filled, _run = list(tab.read_model(model, "main", ""))[-1]
    shown = {TICKS: panel, **dict(zip(tab.form.filled, filled, strict=True))}
    for path, value in shown.items():
        if not isinstance(value, dict):
            values[path] = value
        elif "value" in value:
            values[path] = value["value"]
    return values


@pytest.mark.parametrize(("model", "trainable"), [("gpt2", 24_576), ("demo", None), ("moe", None)])
def test_the_command_line_and_the_page_start_from_the_same_configuration(
    model: str, trainable: int | None, lab: Lab, tab: TrainTab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--models-dir", str(lab.settings.models_dir), "config", model]) == 0
    written = validation.loads(capsys.readouterr().out)
    shown, issues = tab.form.read(list(choose(tab, model).values()))
    assert issues == []
    assert shown == written
    plan = planning.plan(lab, written)
    assert [str(issue) for issue in plan.issues] == [], "it can be trained as it is: max_length fits the model"
    assert all(receipt.matched for receipt in plan.receipts)
    assert trainable in (None, plan.trainable)


def test_one_click_on_train_plans_once_and_reads_the_data_once(
    lab: Lab, tab: TrainTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count: Counter[str] = Counter()

    class Counting(LocalAnalysis):
        def call(self, request: str, monitor: ProgressMonitor | None = None, **arguments: Any) -> Any:
            count[request] += 1
            return super().call(request, monitor, **arguments)

    def counted(*arguments: Any) -> Any:
        count["plan"] += 1
        return native(*arguments)

    native = make_plan
    lab.model_analysis = lab.data_analysis = Counting(lab.settings.models_dir, lab.settings.data_dir)
    name = data.add(lab, tiny.save_rows(tmp_path / "rows.jsonl"))
    values = choose(tab, "phi3") | {"data.source": "file", FILE: name, "model.new_tokens": "<|parrot|>"}
    tab.count_examples(*values.values())  # as the page does once the file is chosen
    click = as_request("a page")
    tab.plan(click, *values.values(), "")
    monkeypatch.setattr("trainer.service.planning.make_plan", counted)
    count.clear()
    *_, (_, run_id) = tab.train(click, *values.values())
    assert count == {"plan": 1, "data_check": 1}
    (run,) = lab.store.all()
    assert run.id == run_id
    assert isinstance(run.config, RunConfig)
    assert run.plan()["steps"] == json.loads((run.folder / "plan.json").read_text())["steps"] == 1


def test_why_train_started_nothing_stays_until_a_setting_changes(lab: Lab, tab: TrainTab, tmp_path: Path) -> None:
    """Also where a plan that was asked for before arrives after it."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "Why?", "response": "So."}\n{"instruction": "Why?", "response": ""}\n')
    values = choose(tab, "phi3") | {"data.source": "file", FILE: data.add(lab, rows)}
    page, other = (as_request(name) for name in ("a page", "another page"))
    *_, (refused, _) = tab.train(page, *values.values())
    assert "1 of 2 rows" in refused
    assert tab.plan(page, *values.values(), "")[1] == refused
    assert "1 of 2 rows" not in tab.plan(other, *values.values(), "")[1]
    changed = values | {"training.seed": 7}
    assert "1 of 2 rows" not in tab.plan(page, *changed.values(), "")[1]
    assert not lab.store.all()


def as_request(session: str) -> gr.Request:
    return cast("gr.Request", SimpleNamespace(session_hash=session))
