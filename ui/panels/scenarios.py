"""Run scenarios: choose a set, see its scenarios on the Train tab's model and how long they take, start them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from trainer import service
from trainer.common import formatting
from trainer.common.errors import UserError
from trainer.common.progress import Canceled
from trainer.config.schema import RunConfig
from trainer.service.experiments import FACTORS, MAX_SEEDS, MAX_TITLE, SETS, SINGLE, Request, Scenario, ScenarioPlan
from trainer.service.lab import Lab
from ui import form
from ui.components import component
from ui.data_checks import Checks
from ui.form import Form
from ui.handlers import DIRECT, QUEUED, show_errors
from ui.panels.live_run import digest
from ui.views import HTML, comparison, data_report

render = HTML.macros("page.html")
BASIS = render("quiet", "Uses the model, data and settings from the Train tab. Each scenario brings its own modules.")
LADDERS = {"× ½, 1, 2": FACTORS, "× ¼, ½, 1, 2, 4": (0.25, *FACTORS, 4.0), "As set": SINGLE}
"""Learning rates to try, as factors of the one on the Train tab."""
WAITING = "Scenarios appear once the Train tab has read the model."


class ScenariosPanel:
    """Builds the panel inside the current block. `checklist.value` holds the keys that were unticked."""

    def __init__(self, lab: Lab, train_form: Form, checks: Checks) -> None:
        self.lab, self.form, self.checks = lab, train_form, checks
        gr.HTML(BASIS, apply_default_css=False)
        with gr.Column(elem_classes="grid bare"):
            names = [(item.title, item.key) for item in SETS]
            common: dict[str, Any] = {"elem_classes": ["setting"], "min_width": 100}
            self.set = gr.Dropdown(
                names, value="six", label="Set", elem_id="scenario-set", elem_classes=["setting", "wide"]
            )
            # no bounds here: Gradio's own error would not be shown; `_seeds` says what is wrong
            self.seeds = gr.Number(1, label="Seeds", elem_id="scenario-seeds", **common)
            self.rates = gr.Dropdown(
                list(LADDERS), value=next(iter(LADDERS)), label="Learning rates", elem_id="scenario-rates", **common
            )
            self.equal = gr.Checkbox(False, label="Equal budget", elem_id="scenario-equal", **common)
            self.name = gr.Textbox("", label="Name", placeholder="Same as the set", max_lines=1, max_length=MAX_TITLE,
                                   elem_id="scenario-name", elem_classes=["setting", "wide"])  # fmt: skip
        self.checklist = component(
            "scenarios_panel.js", '<div class="offers"></div>', "scenario-offers", value="[]", label="Scenarios",
            content="{}",
        )  # fmt: skip
        self.total = gr.HTML("", apply_default_css=False, elem_id="scenario-total")
        self.start = gr.Button("Start", variant="primary", elem_id="scenario-run")
        self.cancel = gr.Button("Cancel", elem_id="scenario-cancel")
        self.checked = gr.HTML("", apply_default_css=False, elem_id="scenario-progress")
        self._build_own_sets()
        self.seen = gr.Textbox("", label="Scenarios shown", visible="hidden")

    def _build_own_sets(self) -> None:
        with gr.Accordion("Custom sets", open=False, elem_id="own-sets"):
            gr.HTML(render("quiet", "Save the modules ticked on the Train tab as a scenario of your own set."),
                    apply_default_css=False)  # fmt: skip
            with gr.Row(elem_classes="pair"):
                self.own_set = gr.Textbox(label="Custom set", max_lines=1, max_length=MAX_TITLE, elem_id="own-set",
                                          elem_classes="setting")  # fmt: skip
                self.own_title = gr.Textbox(label="Scenario", max_lines=1, max_length=MAX_TITLE, elem_id="own-title",
                                            elem_classes="setting")  # fmt: skip
            with gr.Row():
                self.add = gr.Button("Add scenario", size="sm", elem_id="own-add")
                self.remove = gr.Button("Delete set", size="sm", elem_id="own-remove")

    def wire(self, tab: gr.Tab, pick: gr.HTML, compared: gr.Textbox) -> Any:
        """Wire the panel. Returns the start event, after which `pick` names the new experiment."""
        settings: list[Any] = [self.set, self.seeds, self.rates, self.equal, self.checklist]
        shown = [self.checklist, self.total, self.start, self.seen]
        tab.select(self.choices, None, self.set, **DIRECT).then(
            self.show, [self.seen, *settings, *self.form.inputs], shown, **DIRECT
        )
        self.set.change(lambda: "[]", None, self.checklist, **DIRECT)
        gr.on(
            [item.change for item in settings], self.show, [self.seen, *settings, *self.form.inputs], shown,
            trigger_mode="always_last", **DIRECT,
        )  # fmt: skip
        self.add.click(
            show_errors(self.add_own),
            [self.own_set, self.own_title, *self.form.inputs],
            [self.set, self.own_title],
            **QUEUED,
        )
        self.remove.click(show_errors(self.remove_own), self.own_set, self.set, **QUEUED)
        self.cancel.click(self.checks.cancel, None, None, **DIRECT)
        return self.start.click(
            show_errors(self.started), [self.name, *settings, *self.form.inputs],
            [pick, self.name, compared, self.checked], **QUEUED,
        )  # fmt: skip

    def choices(self) -> Any:
        """The sets to choose from: built-in, then the user's own."""
        return gr.update(choices=[*((item.title, item.key) for item in SETS), *self.lab.own_sets.all()])

    def show(self, seen: Any, *values: Any) -> list[Any]:
        """What the scenarios mean on this model, and how long they take; skipped if the page already shows it."""
        try:
            chosen, config = self._read(values)
            if service.models.known(self.lab, config.model) is None:
                content, total, count = {"notice": WAITING}, "", 0
            else:
                content, total, count = self._content(config, chosen)
        except UserError as error:
            content, total, count = {"notice": str(error)}, "", 0
        now = digest(json.dumps([content, total, count]))
        if now == seen:
            return [gr.skip()] * 4
        title = f"Start {count} runs" if count > 1 else "Start 1 run" if count else "Start"
        return [gr.update(content=json.dumps(content)), total, gr.update(value=title, interactive=count > 0), now]

    def _content(self, config: RunConfig, request: Request) -> tuple[dict[str, Any], str, int]:
        plans = service.experiments.plan_scenarios(self.lab, config, request)
        by_key = {planned.scenario.key: planned for planned in plans}
        rows = [
            _row(item, by_key.get(item.key)) for item in service.experiments.scenarios(self.lab, config, request.set)
        ]
        count = service.experiments.count_runs(plans, request.seeds, request.rates)
        needed = service.experiments.seconds(self.lab, config, plans, request)
        known = f"about {formatting.duration(needed)} in total" if needed is not None else ""
        unknown = "duration known after the first run" if count else "select at least one scenario"
        return (
            {"rows": rows},
            render("quiet", f"{count} {'run' if count == 1 else 'runs'}, {known or unknown}."),
            count,
        )

    def started(self, request: gr.Request, name: Any, *values: Any) -> Iterator[list[Any]]:
        """Queue the experiment and select it in the list. Checking the data may take a while."""
        chosen, config = self._read(values)
        chosen = replace(chosen, name=str(name or ""))
        try:
            experiment = yield from self.checks.follow(
                request,
                lambda monitor: service.experiments.start(self.lab, config, chosen, monitor=monitor),
                lambda *done: [gr.skip(), gr.skip(), gr.skip(), data_report.progress(*done)],
            )
        except UserError as error:
            yield [gr.skip(), gr.skip(), gr.skip(), ""]
            if not isinstance(error, Canceled):
                raise
        else:
            yield [json.dumps({"experiment": experiment.id}), "", "", ""]

    def add_own(self, set_name: Any, title: Any, *values: Any) -> list[Any]:
        config, _ = self.form.read(values)
        if config is None:
            raise UserError("The settings on the Train tab are invalid.", "Fix them there first.", "data")
        self.lab.own_sets.add(str(set_name or ""), str(title or ""), config.modules)
        gr.Info("Scenario added. Its set is in the list.", duration=5)
        return [self.choices(), ""]

    def remove_own(self, set_name: Any) -> Any:
        self.lab.own_sets.remove(" ".join(str(set_name or "").split()))
        return gr.update(**(self.choices() | {"value": "six"}))

    def _read(self, values: tuple[Any, ...]) -> tuple[Request, RunConfig]:
        """What the panel and the Train tab say. Raises UserError."""
        set_name, seeds, rates, equal, left_out, *others = values
        config = self._config(tuple(others))
        factors = LADDERS.get(str(rates), SINGLE)
        return Request(str(set_name), equal is True, _seeds(seeds), factors, _keys(left_out)), config

    def _config(self, values: tuple[Any, ...]) -> RunConfig:
        """The Train tab's settings. Raises UserError if anything but the ticks is wrong."""
        config, issues = self.form.read(values)
        issues = [issue for issue in issues if not issue.field.startswith("modules")]
        if config is None or issues:
            problems = (f"{form.label(issue.field)}: {issue.problem} {issue.fix}".strip(": ") for issue in issues)
            raise UserError("Fix the settings on the Train tab first.", " ".join(problems), "data")
        return config


def _row(item: Scenario, planned: ScenarioPlan | None) -> dict[str, Any]:
    """One row of the checklist, as text for the script."""
    row: dict[str, Any] = {"key": item.key, "title": item.title, "on": planned is not None and planned.runs}
    row |= {"free": planned is None or planned.runs, "said": "Not selected.", "receipts": [], "issues": []}
    if planned is None:
        return row
    value = planned.to_json()
    row["said"] = comparison.account(value)
    if not planned.same_as:
        row["issues"] = [f"{issue.problem} {issue.fix}".strip() for issue in planned.issues]
        row["receipts"] = [
            {"tick": receipt.tick, "text": f"{receipt.treatment}: {receipt.note}", "ok": receipt.matched > 0}
            for receipt in planned.plan.receipts
        ]
    return row


def _keys(value: Any) -> frozenset[str]:
    try:
        keys = json.loads(value or "[]")
    except (TypeError, ValueError, RecursionError):
        return frozenset()
    return frozenset(key for key in keys if isinstance(key, str)) if isinstance(keys, list) else frozenset()


def _seeds(value: Any) -> int:
    if not isinstance(value, int | float) or value != value or not 1 <= value <= MAX_SEEDS or value != int(value):
        raise UserError(f"Seeds must be between 1 and {MAX_SEEDS}.", "", "data")
    return int(value)
