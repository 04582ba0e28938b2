"""The Train tab: model, modules, data, settings, summary, Train, and the live side beside them."""

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
from ui.data_checks import Checks
from ui.form import TICKS, Form
from ui.handlers import DIRECT, QUEUED, told
from ui.panels import live_run, model_field, modules, settings
from ui.panels.data import DataPanel
from ui.panels.summary import build as build_summary
from ui.panels.summary import summary
from ui.views import data_report

COUNTED = ("data.", "model.", "training.max_length", "training.seed")
"""Settings that decide how many examples train."""
READING = "The plan appears once a model's modules are read."


class TrainTab:
    """Builds the tab and holds what its handlers need: the lab and the form."""

    def __init__(self, lab: Lab, page: gr.Blocks) -> None:
        self.lab, self.form, self.checks = lab, Form(), Checks()
        with gr.Row(elem_id="bench"):
            with gr.Column(elem_id="col-modules", min_width=0), gr.Column(elem_classes="card"):
                model = self.form.components["model.name"] = model_field.build(lab)
                self.panel = self.form.components[TICKS] = modules.build()
            with gr.Column(elem_id="col-settings", min_width=0):
                with gr.Column(elem_classes="card", elem_id="settings"):
                    self.data = DataPanel(lab, self.form, self.checks)
                    config_file = settings.build_settings(self.form)
                    self.wanted = gr.Textbox("", label="Configuration to show", visible="hidden")
                with gr.Column(elem_classes="card", elem_id="go"):
                    self.summary = build_summary(READING)
                    button = gr.Button("Train", variant="primary", elem_id="train")
                    self.cancel = gr.Button("Cancel", elem_id="train-cancel")
                    self.scenarios = gr.Button("Run scenarios…", size="sm", elem_id="run-scenarios")
            with gr.Column(elem_id="col-live", min_width=0):
                self.live = live_run.build(lab)
        self.data.build_sheet()
        self._wire(page, model, config_file, button)

    def _wire(self, page: gr.Blocks, model: Any, config_file: Any, button: Any) -> None:
        form, plan_outputs = self.form, [self.panel, self.summary]
        self.named = [model, form.components["model.revision"], self.wanted]
        self.everything = [self.panel, self.summary, *(form.components[path] for path in form.filled)]
        for event in (page.load, model.change):
            event(self.read_model, self.named, self.everything, trigger_mode="always_last", **QUEUED).then(
                self.plan, form.inputs, plan_outputs, **DIRECT
            )
        self.show_after(config_file.upload(told(self.load_config), config_file, self.named, **QUEUED))
        page.load(self.live.refresh, [self.live.shown, self.live.seen], self.live.outputs, **DIRECT)
        gr.on(
            [item.change for path, item in form.components.items() if path != "model.name"],
            self.plan, form.inputs, plan_outputs, trigger_mode="always_last", **DIRECT,
        )  # fmt: skip
        counted = [item.change for path, item in form.components.items() if path.startswith(COUNTED)]
        gr.on([page.load, *counted], self.count, form.inputs, None, trigger_mode="always_last", **QUEUED).then(
            self.plan, form.inputs, plan_outputs, **DIRECT
        )
        self.summary.click(self.change, None, [form.components[path] for path in form.filled], **DIRECT)
        self.data.wire()
        self.cancel.click(self.checks.cancel, None, None, **DIRECT)
        button.click(told(self.train), form.inputs, [self.summary, self.live.shown], **QUEUED).then(
            self.live.refresh, [self.live.shown, self.live.seen], self.live.outputs, **DIRECT
        )

    def show_after(self, event: Any) -> None:
        """After an event that gave `named` a configuration: show all of it."""
        event.success(self.read_model, self.named, self.everything, **QUEUED).then(
            self.plan, self.form.inputs, [self.panel, self.summary], **DIRECT
        )

    def load_config(self, path: str) -> list[str]:
        """A configuration file's model and text, for `read_model`. Raises UserError with all that is wrong in it."""
        try:
            return wanting(validation.load(Path(path)))
        finally:
            Path(path).unlink(missing_ok=True)

    def read_model(self, name: str | None, revision: str | None, wanted: str | None) -> Iterator[list[Any]]:
        """Read a model's modules; then show the configuration that is wanted for it, or start from what fits it."""
        name = (name or "").strip()
        untouched = [gr.skip()] * len(self.form.filled)
        model = ModelConfig(name=name, revision=(revision or "").strip() or "main")
        if service.models.known(self.lab, model) is None:
            yield [modules.update(modules.reading(name)), summary(None, (), waiting=READING), *untouched]
        try:
            if not name:
                raise UserError("No model is chosen.", "Choose the demo, a folder, or write a hub id owner/name.")
            found = service.models.module_map(self.lab, model)
        except UserError as error:
            yield [modules.update(modules.failed(error)), gr.skip(), *untouched]
            return
        loaded = _wanted(wanted, model)
        shown = loaded or service.planning.starting_config(model, found)
        values = dict(zip(self.form.filled, self.form.fill(shown, whole=loaded is not None), strict=True))
        values[settings.QUANTIZATION] = settings.quantization(found.checkpoint, shown.model.quantization)
        yield [modules.update(modules.payload(found), shown.modules), gr.skip(), *values.values()]

    def plan(self, *values: Any) -> list[Any]:
        """Receipts and summary of what the page shows. Light: arithmetic over a map that is read already."""
        plan, issues, waiting = self._judge(values)
        if plan is None:
            return [gr.skip(), summary(None, issues, waiting=waiting)]
        return [gr.update(receipts=modules.receipts(plan.receipts)), summary(plan, issues)]

    def count(self, *values: Any) -> None:
        """Read data that take no time, so that the plan knows how many steps the run takes."""
        config, issues = self.form.read(values)
        if config is not None and not any(issue.field.startswith(COUNTED) for issue in issues):
            with contextlib.suppress(UserError):  # what is wrong, a look at the data says, and so does Train
                service.data.read_if_quick(self.lab, config)

    def change(self, event: gr.EventData) -> list[Any]:
        """Fill in the settings that a problem's button names."""
        try:
            changes = json.loads(event.changes)
        except (AttributeError, TypeError, ValueError, RecursionError):
            changes = {}  # a click elsewhere
        return self.form.change(changes if isinstance(changes, dict) else {})

    def train(self, request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        """Start a run, or show every problem at once and start nothing. To check the data may take a while."""
        config, issues = self.form.read(values)
        if config is not None:
            service.models.module_map(self.lab, config.model)  # waits while it is read; says why where it cannot be
        plan, issues, _ = self._judge(values)
        if config is None or plan is None or issues:
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
            yield [summary(plan, error.issues, refused=True), gr.skip()]
        except UserError:
            yield [summary(plan, ()), gr.skip()]
            raise
        else:
            yield [summary(plan, ()), run.id]

    def _judge(self, values: tuple[Any, ...]) -> tuple[Plan | None, list[Issue], str]:
        """The plan, all problems, and, where there is no plan, what it waits for."""
        config, issues = self.form.read(values)
        if config is None or service.models.known(self.lab, config.model) is None:
            return None, issues, READING
        try:
            plan = service.planning.plan(self.lab, config)
        except UserError as error:  # new tokens for a model without a tokenizer that could be read
            return None, [*issues, Issue("model.new_tokens", error.problem, error.fix)], ""
        return plan, [*issues, *plan.issues], ""


def wanting(config: RunConfig) -> list[str]:
    """Values of `TrainTab.named` for a configuration that the page is to show."""
    return [config.model.name, config.model.revision, json.dumps(config.to_json())]


def _wanted(text: str | None, model: ModelConfig) -> RunConfig | None:
    """The configuration that was loaded for this model, if there is one."""
    try:
        config = validation.loads(text) if text else None
    except UserError:
        return None  # only a page that was tampered with sends one that cannot be read
    same = config is not None and (config.model.name, config.model.revision) == (model.name, model.revision)
    return config if same else None
