"""Titles are text, and so is everything else that people or files bring in: page, messages, chart."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from tests.security.test_export import NoPlan
from trainer import service
from trainer.common.errors import Issue, UserError
from trainer.config.schema import ModelConfig, RunConfig, Tick
from trainer.execution.device_usage import UsageMeter
from trainer.runs import event_log
from trainer.runs.run import Run
from trainer.runs.store import RunStore
from ui import handlers
from ui.panels import live_run, summary
from ui.tabs import runs
from ui.views import run_progress

UI = Path(__file__).parents[2] / "ui"
EVIL = '<img src=x onerror="alert(1)"></h2><script>alert(1)</script>\' & `'


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run in which every text is an attack."""
    config = RunConfig(title=EVIL, model=ModelConfig(name=EVIL), modules=(Tick(EVIL),))
    store = RunStore(tmp_path)
    made = store.create(config, NoPlan())  # type: ignore[arg-type]
    event_log.append(made.folder / "events.jsonl", "log", text=EVIL)
    event_log.append(made.folder / "events.jsonl", "state", state=EVIL, cause=EVIL, message=EVIL)
    return store.get(made.id)


def is_safe(content: str) -> bool:
    return not re.search(r"<(img|script|/h2><script)", content) and 'onerror="' not in content


def test_the_live_side_escapes(run: Run) -> None:
    content = run_progress.status(run, run.history.state) + run_progress.figures(run)
    assert "&lt;img" in content
    assert is_safe(content.replace("</h2><span", ""))


def test_buttons_mean_the_run_that_the_page_shows(run: Run) -> None:
    """And not one that was made a moment ago, which the next refresh will show."""
    store = RunStore(run.folder.parent)
    lab: Any = SimpleNamespace(store=store, usage=UsageMeter(store))
    seen = live_run.refresh(lab, "", "")[-1]
    lab.store.create(RunConfig(), NoPlan())
    assert live_run.displayed(lab, seen).id == run.id


def test_the_runs_tab_escapes(run: Run) -> None:
    assert is_safe(runs._facts(run.summary(), ""))


def test_the_chart_shows_no_foreign_text(run: Run) -> None:
    assert "onerror" not in json.dumps(service.runs.loss_figure(run.history, run.id))


def test_the_summary_escapes() -> None:
    assert is_safe(summary.summary(summary.State(issues=(Issue(EVIL, EVIL, EVIL),), refused=True, waiting=EVIL)))


def test_messages_escape() -> None:
    @handlers.show_errors
    def handler() -> Any:
        raise UserError(EVIL)

    with pytest.raises(gr.Error) as caught:
        handler()
    assert is_safe(caught.value.message)


@pytest.mark.parametrize("path", sorted((UI / "static").glob("*.js")), ids=lambda path: path.name)
def test_scripts_write_text_and_no_markup(path: Path) -> None:
    code = path.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", code)


def test_a_new_title_is_one_line_of_bounded_length(run: Run) -> None:
    store = RunStore(run.folder.parent)
    store.rename(run.id, "a\nb\0" + "x" * 1000)
    assert len(store.get(run.id).title) <= 120
    assert "\n" not in store.get(run.id).title


def test_a_run_with_a_foreign_title_keeps_its_own_id(run: Run) -> None:
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run.id)
    assert replace(run).id == run.folder.name
