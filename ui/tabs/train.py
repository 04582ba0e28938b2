"""The Train tab: model, modules, data, settings, summary, Train, and the live panel."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from trainer import service
from trainer.common.errors import InvalidConfig, Issue, UserError
from trainer.common.progress import Canceled
from trainer.config import validation
from trainer.config.schema import ModelConfig, RunConfig
from trainer.service.lab import Lab
from trainer.service.planning import Plan
from ui.clients import monitor_of_client
from ui.data_checks import Checks
from ui.form import TICKS, Form
from ui.handlers import DIRECT, QUEUED, inform, show_errors
from ui.panels import live_run, model_field, modules, run_buttons, settings
from ui.panels.data import DataPanel
from ui.panels.summary import build as build_summary
from ui.panels.summary import summary
from ui.refusals import Refusals
from ui.views import data_report

DATA_SETTINGS = ("data.", "model.", "training.max_length", "training.seed")
"""Settings that determine how many examples are trained on."""
READING = "The plan appears once the model's modules have been read."


class TrainTab:
    """Builds the tab and holds what its handlers need: the lab and the form."""

    def __init__(self, lab: Lab, page: gr.Blocks) -> None:
        self.lab, self.form, self.checks, self.refusals = lab, Form(), Checks(), Refusals()
        with gr.Row(elem_id="bench"):
            with gr.Column(elem_id="col-modules", min_width=0), gr.Column(elem_classes="card"):
                model = self.form.components["model.name"] = model_field.build(lab)
                self.panel = self.form.components[TICKS] = modules.build()
            with gr.Column(elem_id="col-settings", min_width=0):
                with gr.Column(elem_classes="card", elem_id="settings"):
                    self.data = DataPanel(lab, self.form, self.checks)
                    config_file = settings.build_settings(self.form)
                    self.pending = gr.Textbox("", label="Configuration to show", visible="hidden")
                with gr.Column(elem_classes="card", elem_id="go"):
                    self.summary: Any = build_summary(READING)
                    button = gr.Button("Train", variant="primary", elem_id="train")
                    self.cancel = gr.Button("Cancel", elem_id="train-cancel")
                    self.scenarios = gr.Button("Run scenarios…", size="sm", elem_id="run-scenarios")
            with gr.Column(elem_id="col-live", min_width=0):
                self.live = live_run.build(lab)
        self.data.build_sheet()
        self._wire(page, model, config_file, button)

    def _wire(self, page: gr.Blocks, model: Any, config_file: Any, button: Any) -> None:
        form, plan_outputs = self.form, [self.panel, self.summary]
        self.model_inputs = [model, form.components["model.revision"], self.pending]
        self.model_outputs = [self.panel, self.summary, *(form.components[path] for path in form.filled)]
        for event in (page.load, model.change):
            event(self.read_model, self.model_inputs, self.model_outputs, trigger_mode="always_last", **QUEUED).then(
                self.plan, form.inputs, plan_outputs, **DIRECT
            )
        self.show_after(config_file.upload(show_errors(self.load_config), config_file, self.model_inputs, **QUEUED))
        self.show_after(self.live.again.click(show_errors(self.again), self.live.seen, self.model_inputs, **QUEUED))
        page.load(self.live.refresh, [self.live.shown, self.live.seen], self.live.outputs, **DIRECT)
        gr.on(
            [item.change for path, item in form.components.items() if path != "model.name"],
            self.plan, form.inputs, plan_outputs, trigger_mode="always_last", **DIRECT,
        )  # fmt: skip
        data_changes = [item.change for path, item in form.components.items() if path.startswith(DATA_SETTINGS)]
        gr.on(
            [page.load, *data_changes], self.count_examples, form.inputs, None, trigger_mode="always_last", **QUEUED
        ).then(self.plan, form.inputs, plan_outputs, **DIRECT)
        self.summary.fix(form.fix, None, [form.components[path] for path in form.filled], **DIRECT)
        self.data.wire()
        self.cancel.click(self.checks.cancel, None, None, **DIRECT)
        button.click(show_errors(self.train), form.inputs, [self.summary, self.live.shown], **QUEUED).then(
            self.live.refresh, [self.live.shown, self.live.seen], self.live.outputs, **DIRECT
        )

    def show_after(self, event: Any) -> None:
        """After an event that set `model_inputs` to a configuration: show all of it."""
        event.success(self.read_model, self.model_inputs, self.model_outputs, **QUEUED).then(
            self.plan, self.form.inputs, [self.panel, self.summary], **DIRECT
        )

    def load_config(self, path: str) -> list[str]:
        """Values of `model_inputs` from a configuration file. Raises UserError with all its problems."""
        try:
            return model_input_values(validation.load(Path(path)))
        finally:
            Path(path).unlink(missing_ok=True)

    def again(self, seen: str | None) -> list[str]:
        """Values of `model_inputs` for a new run like the one that the live panel shows."""
        run = live_run.displayed(self.lab, seen)
        values = model_input_values(run_buttons.settings_of(run))
        inform(f"The form shows the settings of {run.title}. Change them, then press Train.")
        return values

    def read_model(self, name: str | None, revision: str | None, pending: str | None) -> Iterator[list[Any]]:
        """Read a model's modules, then show the pending configuration for it, or the default one."""
        name, monitor = (name or "").strip(), monitor_of_client()
        unchanged = [gr.skip()] * len(self.form.filled)
        model = ModelConfig(name=name, revision=(revision or "").strip() or "main")
        if service.models.known(self.lab, model) is None:
            yield [modules.update(modules.reading(name)), summary(None, (), waiting=READING), *unchanged]
        try:
            if not name:
                raise UserError("No model is chosen.", "Choose the demo, a folder, or write a hub id owner/name.")
            module_map = service.models.module_map(self.lab, model, monitor)
        except UserError as error:
            yield [modules.update(modules.failed(error)), gr.skip(), *unchanged]
            return
        loaded = _pending_config(pending, model)
        shown = loaded or service.planning.starting_config(model, module_map)
        values = dict(zip(self.form.filled, self.form.fill(shown, whole=loaded is not None), strict=True))
        values[settings.QUANTIZATION] = settings.quantization(module_map.checkpoint, shown.model.quantization)
        yield [modules.update(modules.payload(module_map), shown.modules), gr.skip(), *values.values()]

    def plan(self, request: gr.Request, *values: Any) -> list[Any]:
        """Match reports and summary for what the page shows. Fast: the module map has been read already."""
        plan, issues, waiting = self._plan(values)
        refused = self.refusals.of(request, values)
        problems = [*issues, *(refused or ())]
        shown = summary(plan, problems, refused=refused is not None and bool(problems), waiting=waiting)
        return [gr.skip() if plan is None else gr.update(receipts=modules.match_reports(plan.receipts)), shown]

    def count_examples(self, *values: Any) -> None:
        """Read data that are quick to read, so that the plan knows how many steps the run takes."""
        config, issues = self.form.read(values)
        if config is not None and not any(issue.field.startswith(DATA_SETTINGS) for issue in issues):
            with contextlib.suppress(UserError):  # Look at the data and Train report the problem
                service.data.read_if_quick(self.lab, config)

    def train(self, request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        """Start a run, or show all problems and start nothing. Checking the data may take a while."""
        config, issues = self.form.read(values)
        self.refusals.forget(request)
        if config is not None:
            service.models.module_map(self.lab, config.model)  # waits for it; raises if it cannot be read
        plan, issues, _ = self._plan(values)
        if config is None or plan is None or issues:
            self.refusals.remember(request, values)
            yield [summary(plan, issues, refused=True), gr.skip()]
            return
        try:
            run = yield from self.checks.follow(
                request,
                lambda monitor: service.runs.start(self.lab, config, plan, monitor),
                lambda *done: [summary(plan, (), progress=data_report.progress(*done)), gr.skip()],
            )
        except Canceled:
            yield [summary(plan, ()), gr.skip()]
        except InvalidConfig as error:
            self.refusals.remember(request, values, error.issues)
            yield [summary(plan, error.issues, refused=True), gr.skip()]
        except UserError:
            yield [summary(plan, ()), gr.skip()]
            raise
        else:
            yield [summary(plan, ()), run.id]

    def _plan(self, values: tuple[Any, ...]) -> tuple[Plan | None, list[Issue], str]:
        """The plan, all problems, and, if there is no plan yet, what it waits for."""
        config, issues = self.form.read(values)
        if config is None or service.models.known(self.lab, config.model) is None:
            return None, issues, READING
        try:
            plan = service.planning.plan(self.lab, config)
        except UserError as error:  # new tokens, but the model's tokenizer cannot be read
            return None, [*issues, Issue("model.new_tokens", error.problem, error.fix)], ""
        return plan, [*issues, *plan.issues], ""


def model_input_values(config: RunConfig) -> list[str]:
    """Values of `TrainTab.model_inputs` that make the page show a configuration."""
    return [config.model.name, config.model.revision, json.dumps(config.to_json())]


def _pending_config(text: str | None, model: ModelConfig) -> RunConfig | None:
    """The configuration that was loaded for this model, if any."""
    try:
        config = validation.loads(text) if text else None
    except UserError:
        return None  # only a tampered page sends an unreadable one
    same = config is not None and (config.model.name, config.model.revision) == (model.name, model.revision)
    return config if same else None
