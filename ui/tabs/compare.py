"""The Compare tab: choose runs or an experiment; see curves, table, costs and verdict; download the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from trainer import service
from trainer.common.errors import UserError
from trainer.common.progress import ProgressMonitor
from trainer.service.experiments import (
    AXES,
    CURVES,
    MAX_COMPARED,
    OPEN,
    PRICES,
    Comparison,
    Criteria,
    Experiment,
    price_figure,
)
from trainer.service.lab import Lab
from ui import download
from ui.components import chart, component
from ui.handlers import DIRECT, QUEUED, inform, show_errors
from ui.panels import live_run
from ui.panels.live_run import digest
from ui.panels.scenarios import ScenariosPanel
from ui.tabs.train import TrainTab
from ui.views import comparison

PICKER = """<div class="runs picker">
<h2>Experiments</h2><div class="scroll experiments"></div>
<h2>Runs</h2><div class="runs-search"><input type="search" aria-label="Search runs to compare"
placeholder="Search runs" autocomplete="off"></div><div class="scroll singles"></div></div>"""
TABLE = """<div class="runs results"><div class="results-top"><label>
<input type="checkbox" class="every"> Show single runs</label>
<button type="button" class="link csv">Download CSV</button></div>
<div class="scroll"><table><thead><tr></tr></thead><tbody></tbody></table></div></div>"""
OUTPUTS = 13
"""Number of components that `refresh` fills."""


class CompareTab:
    """Builds the tab; the choice comes from the browser and is validated every time."""

    def __init__(self, lab: Lab, train: TrainTab, tabs: gr.Tabs, tab: gr.Tab) -> None:
        self.lab = lab
        with gr.Row(elem_id="compare-bench"):
            with gr.Column(elem_id="col-choice", min_width=0):
                with gr.Accordion("Run scenarios", open=False, elem_id="scenarios", elem_classes="card") as fold:
                    self.panel = ScenariosPanel(lab, train.form, train.checks)
                self.pick = component("compare_pick.js", PICKER, "compare-pick", elem_classes="card", lists="{}")
            with gr.Column(elem_id="col-compared", min_width=0):
                self._build_results()
        self.timer = gr.Timer(3, active=False)
        self.listed = gr.Textbox("", label="Lists shown", visible="hidden")
        self.seen = gr.Textbox("", label="Comparison shown", visible="hidden")
        self._wire(train, tabs, tab, fold)

    def _build_results(self) -> None:
        with gr.Column(elem_classes="card", elem_id="compare-head"):
            self.head = gr.HTML(comparison.EMPTY, apply_default_css=False)
            with gr.Row(elem_id="compare-buttons", visible=False) as self.buttons:
                self.stop = gr.Button("Stop all", size="sm", elem_id="compare-stop")
                self.resume = gr.Button("Resume all", size="sm", elem_id="compare-resume")
                self.fetch = gr.Button("Download report", size="sm", elem_id="compare-report")
        with gr.Column(elem_classes="card", visible=False) as self.curves_card:
            with gr.Row(elem_classes="chart-choice"):
                names = [(title, key) for key, title in CURVES.items()]
                self.curve = gr.Radio(names, value="eval_loss", show_label=False, elem_id="compare-curve")
                axes = [(f"by {'time' if key == 'elapsed' else key}", key) for key in AXES]
                self.axis = gr.Radio(axes, value="step", show_label=False, elem_id="compare-axis")
                self.width = gr.Slider(1, 200, 15, step=1, label="Smoothing, steps", visible=False)
            self.chart = chart("compare-chart", "Loss curves")
        with gr.Column(elem_classes="card", visible=False) as self.table_card:
            self.table = component("compare_table.js", TABLE, "compare-table", content="{}")
        with gr.Column(elem_classes="card", visible=False) as self.price_card:
            with gr.Row(elem_classes="chart-choice"):
                names = [(title, key) for key, title in PRICES.items()]
                self.price = gr.Radio(names, value="trainable", show_label=False, elem_id="compare-price")
            self.prices = chart("compare-prices", "Eval loss against its price")
        self.details = gr.HTML("", apply_default_css=False, elem_id="compare-details")

    def _wire(self, train: TrainTab, tabs: gr.Tabs, tab: gr.Tab, fold: gr.Accordion) -> None:
        choice = [self.pick, self.curve, self.axis, self.width, self.price, self.seen]
        shown = [self.head, self.buttons, self.stop, self.resume, self.curves_card, self.chart, self.table_card,
                 self.table, self.price_card, self.prices, self.details, self.fetch, self.seen]  # fmt: skip

        def after(event: Any) -> Any:
            listed = event.then(self.list_all, self.listed, [self.pick, self.listed], **DIRECT)
            return listed.then(self.refresh, choice, shown, **DIRECT)

        after(tab.select(lambda: gr.Timer(active=True), None, self.timer, **DIRECT))
        after(self.timer.tick(lambda: None, None, None, **DIRECT))
        gr.on(
            [self.pick.change, self.curve.change, self.axis.change, self.width.release, self.price.change],
            self.refresh, choice, shown, trigger_mode="always_last", **DIRECT,
        )  # fmt: skip
        self.curve.change(lambda curve: gr.update(visible=curve == "loss"), self.curve, self.width, **DIRECT)
        after(self.stop.click(show_errors(self.stopped), self.pick, None, **QUEUED))
        after(self.resume.click(show_errors(self.resumed), self.pick, None, **QUEUED))
        download.wire(self.fetch, self.report, self.pick, "compare-file")
        after(self.panel.wire(tab, self.pick, self.seen))
        after(
            train.live.compare.click(
                show_errors(self.opened), train.live.seen, [self.pick, tabs, self.timer], **QUEUED
            )
        )
        train.scenarios.click(
            lambda: [gr.Tabs(selected="compare"), gr.Accordion(open=True), gr.Timer(active=True)],
            None, [tabs, fold, self.timer], **DIRECT,
        )  # fmt: skip

    def opened(self, seen: str | None) -> list[Any]:
        """Choose the run that the live panel shows."""
        run = live_run.displayed(self.lab, seen)
        return [json.dumps({"runs": [run.id]}), gr.Tabs(selected="compare"), gr.Timer(active=True)]

    def list_all(self, seen: str) -> list[Any]:
        """Experiments and runs to choose from; skipped if the page already has them."""
        experiments = [comparison.experiment_row(summary) for summary in self.lab.experiments.summaries()]
        runs = [comparison.run_row(row) for row in self.lab.store.summaries()]
        lists = json.dumps({"experiments": experiments, "runs": runs})
        return [gr.skip(), gr.skip()] if digest(lists) == seen else [gr.update(lists=lists), digest(lists)]

    def refresh(self, value: Any, curve: Any, axis: Any, width: Any, price: Any, seen: Any) -> list[Any]:
        """Everything about the choice; skipped if the page already shows it."""
        try:
            names = self._names(value)
            version = service.experiments.version(self.lab, names)
        except UserError as error:
            return self._nothing(comparison.EMPTY if not value else comparison.notice(error), seen)
        options: list[Any] = [_one_of(curve, CURVES), _one_of(axis, AXES), _steps(width), _one_of(price, PRICES)]
        now = digest(json.dumps([names, options, version]))
        if now == seen:
            return [gr.skip()] * OUTPUTS
        try:
            compared, experiment = service.experiments.compare(self.lab, names, Criteria(cost=options[-1]))
            return [*self._filled(compared, experiment, *options), now]
        except UserError as error:  # a run was deleted in the meantime
            return self._nothing(comparison.notice(error), seen)

    def _filled(
        self, compared: Comparison, experiment: Experiment | None, curve: str, axis: str, width: int, price: str
    ) -> list[Any]:
        summary = self.lab.experiments.summary(experiment) if experiment else None
        states = summary["states"] if summary else {}
        can_stop = any(states.get(state) for state in OPEN)
        can_resume = any(count for state, count in states.items() if state not in (*OPEN, "finished"))
        has_runs, has_losses = bool(compared.rows), any(group.losses for group in compared.groups)
        figure = service.experiments.curves_figure(self.lab, compared, curve, axis, width) if has_runs else {}
        prices = price_figure(compared, price) if has_losses else {}
        return [
            comparison.head(compared, summary),
            gr.update(visible=True),
            gr.update(visible=can_stop, value="Stop all now" if "stopping" in states else "Stop all"),
            gr.update(visible=can_resume),
            gr.update(visible=has_runs),
            gr.update(figure=json.dumps(figure)),
            gr.update(visible=has_runs),
            gr.update(content=json.dumps(comparison.table(compared))),
            gr.update(visible=has_losses),
            gr.update(figure=json.dumps(prices)),
            comparison.details(compared, experiment),
            gr.update(interactive=has_runs),
        ]

    def _nothing(self, head: str, seen: Any) -> list[Any]:
        hidden, now = gr.update(visible=False), digest(head)
        if now == seen:
            return [gr.skip()] * OUTPUTS
        return [head, hidden, gr.skip(), gr.skip(), hidden, gr.skip(), hidden, gr.skip(), hidden, gr.skip(), "",
                gr.skip(), now]  # fmt: skip

    def report(self, value: Any, _monitor: ProgressMonitor) -> Path:
        return service.exports.report(self.lab, self._names(value))

    def stopped(self, value: Any) -> None:
        inform(service.runs.stop(self.lab, self._experiment(value)))

    def resumed(self, value: Any) -> None:
        inform(service.experiments.resume(self.lab, self._experiment(value)))

    def _experiment(self, value: Any) -> str:
        choice = _choice(value)
        if not choice.get("experiment"):
            raise UserError("No experiment is selected.", "Choose one in the list.", "data")
        return str(choice["experiment"])

    def _names(self, value: Any) -> list[str]:
        """Ids of the selection. Raises UserError if it is empty or invalid."""
        choice = _choice(value)
        runs = choice.get("runs")
        if choice.get("experiment"):
            return [str(choice["experiment"])]
        if not isinstance(runs, list) or not runs:
            raise UserError("Nothing is selected.", "Select two or more runs, or an experiment.", "data")
        if len(runs) > MAX_COMPARED:
            raise UserError(f"{len(runs)} runs are too many to compare.", f"Choose at most {MAX_COMPARED}.", "data")
        return [str(run) for run in runs]


def _choice(value: Any) -> dict[str, Any]:
    try:
        choice = json.loads(value or "{}")
    except (TypeError, ValueError, RecursionError):
        choice = {}
    return choice if isinstance(choice, dict) else {}


def _one_of(value: Any, known: dict[str, str]) -> str:
    """The value if it is one of `known`, else the first of them."""
    return value if isinstance(value, str) and value in known else next(iter(known))


def _steps(value: Any) -> int:
    return int(min(max(value, 1), 200)) if isinstance(value, int | float) and value == value else 1
