"""The Train tab: model, modules, data, settings, summary, Train, and the live panel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from trainer import service
from trainer.common.errors import InvalidConfig, Issue, UserError
from trainer.common.progress import Canceled
from trainer.config import validation
from trainer.config.schema import ModelConfig, default_config
from trainer.service.lab import Lab
from trainer.service.runs import Run
from ui import settings_source
from ui.clients import monitor_of_client
from ui.components import component
from ui.data_checks import Checks
from ui.form import TICKS, Form
from ui.handlers import DIRECT, QUEUED, inform, show_errors
from ui.panels import live_run, model_field, modules, settings
from ui.panels.data import DataPanel
from ui.panels.summary import State, summary
from ui.panels.summary import build as build_summary
from ui.refusals import Refusals
from ui.settings_source import Source
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
                self.panel = self.form.components[TICKS] = modules.build(lab)
            with gr.Column(elem_id="col-settings", min_width=0):
                with gr.Column(elem_classes="card", elem_id="settings"):
                    self.source: Any = component("settings_source.js", "${value}", "settings-source")
                    self.data = DataPanel(lab, self.form, self.checks)
                    config_file = settings.build_settings(self.form)
                    self.pending = gr.Textbox("", label="Settings to show", visible="hidden")
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
        form, live = self.form, self.live
        filled = [form.components[path] for path in form.filled]
        self.model_inputs = [model, form.components["model.revision"], self.pending]
        self.model_outputs = [self.panel, self.summary, *filled, live.shown]
        page.load(
            self.open_page, self.model_inputs, [*self.model_inputs, *self.model_outputs],
            js=settings_source.RECALL, **QUEUED,
        ).then(
            self.plan, [*form.inputs, self.pending], [self.panel, self.summary, self.source], **DIRECT
        )  # fmt: skip
        self._plan_after(
            model.change(
                self.read_model, self.model_inputs, self.model_outputs, trigger_mode="always_last", **QUEUED
            ).then
        )
        for event in (
            config_file.upload(show_errors(self.load_config), config_file, self.model_inputs, **QUEUED),
            self.source.reset(self.reset, self.model_inputs[:2], self.model_inputs, **DIRECT),
            live.again.click(show_errors(self.again), live.seen, self.model_inputs, **QUEUED),
        ):
            self.show_after(event)
        page.load(live.refresh, [live.shown, live.seen], live.outputs, **DIRECT)
        changes = [item.change for path, item in form.components.items() if path != "model.name"]
        self._plan_after(partial(gr.on, changes, trigger_mode="always_last"))
        data_changes = [item.change for path, item in form.components.items() if path.startswith(DATA_SETTINGS)]
        counted = gr.on(
            [page.load, *data_changes], self.count_examples, form.inputs, None, trigger_mode="always_last", **QUEUED
        )
        self._plan_after(counted.then)
        self.summary.fix(form.fix, None, filled, **DIRECT)
        self.data.wire()
        self.cancel.click(self.checks.cancel, None, None, **DIRECT)
        self._train_after(button.click)
        self._train_after(self.summary.skip(form.fix, None, filled, **DIRECT).then)

    def _plan_after(self, event: Any) -> None:
        """Make `event` plan what the page shows, and let the browser keep it."""
        event(
            self.plan, [*self.form.inputs, self.pending], [self.panel, self.summary, self.source],
            js=settings_source.remember(self.form.components), **DIRECT,
        )  # fmt: skip

    def _train_after(self, event: Any) -> None:
        started = event(show_errors(self.train), self.form.inputs, [self.summary, self.live.shown], **QUEUED)
        started.then(self.live.refresh, [self.live.shown, self.live.seen], self.live.outputs, **DIRECT)
        self._plan_after(started.then)  # a plan that was asked for earlier may have arrived after the refusal

    def show_after(self, event: Any) -> None:
        """After an event that set `model_inputs` to `run_values` or the like: show all of it, and a run's curves."""
        read = event.success(self.read_model, self.model_inputs, self.model_outputs, **QUEUED)
        self._plan_after(read.then)
        read.then(self.live.refresh, [self.live.shown, self.live.seen], self.live.outputs, **DIRECT)

    def load_config(self, path: str) -> list[str]:
        """Values of `model_inputs` from a configuration file. Raises UserError with all its problems."""
        try:
            return settings_source.values(Source(validation.load(Path(path)), "file", Path(path).name))
        finally:
            Path(path).unlink(missing_ok=True)

    def reset(self, name: str | None, revision: str | None) -> list[str]:
        """Values of `model_inputs` for the defaults of this model; of the demo, if this one cannot be read."""
        model = _model(name, revision)
        module_map = service.models.known(self.lab, model)
        config = default_config() if module_map is None else service.planning.starting_config(model, module_map)
        return settings_source.values(Source(config, "defaults"))

    def open_page(self, name: str | None, revision: str | None, kept: str | None) -> Iterator[list[Any]]:
        """Show what the browser keeps, or the defaults."""
        source = settings_source.parse(kept, self.form)
        model = source.config.model if source is not None else _model(name, revision)
        for number, shown in enumerate(self.read_model(model.name, model.revision, kept)):
            first = [model.name, model.revision, kept] if source is not None and not number else [gr.skip()] * 3
            yield [*first, *shown]

    def again(self, seen: str | None) -> list[str]:
        """Values of `model_inputs` for a new run like the one that the live panel shows."""
        run = live_run.displayed(self.lab, seen)
        values = run_values(run)
        inform(f"The form shows the settings of {run.title}. Change them, then press Train.")
        return values

    def read_model(self, name: str | None, revision: str | None, pending: str | None) -> Iterator[list[Any]]:
        """Read a model's modules, then show the pending configuration for it, or the default one."""
        model, monitor = _model(name, revision), monitor_of_client()
        source = settings_source.parse(pending, self.form)
        if source is not None and (source.config.model.name, source.config.model.revision) != (
            model.name, model.revision,
        ):  # fmt: skip
            source = None
        run = source.run if source is not None and source.run else gr.skip()
        unchanged = [gr.skip()] * len(self.form.filled)
        if service.models.known(self.lab, model) is None:
            yield [modules.update(modules.reading(model.name)), summary(State(waiting=READING)), *unchanged, run]
        try:
            if not model.name:
                raise UserError("No model is chosen.", "Choose the demo, a folder, or write a hub id owner/name.")
            module_map = service.models.module_map(self.lab, model, monitor)
        except UserError as error:
            shown = unchanged if source is None else self.form.fill(source.config, whole=True)
            ticks = None if source is None else source.config.modules
            yield [modules.update(modules.failed(error), ticks), gr.skip(), *shown, run]
            return
        config = source.config if source is not None else service.planning.starting_config(model, module_map)
        values = dict(zip(self.form.filled, self.form.fill(config, whole=source is not None), strict=True))
        values[settings.QUANTIZATION] = settings.quantization(module_map.checkpoint, config.model.quantization)
        panel = modules.update(modules.payload(self.lab, module_map), config.modules)
        yield [panel, gr.skip(), *values.values(), run]

    def plan(self, request: gr.Request, *values: Any) -> list[Any]:
        """Match reports, summary and whose settings these are. Fast: the module map has been read already."""
        *form_values, pending = values
        values = tuple(form_values)
        state, refused = self._state(values), self.refusals.of(request, values)
        if refused is not None and (problems := (*state.issues, *refused)):
            state = replace(state, issues=problems, refused=True)
        reports = gr.skip() if state.plan is None else gr.update(receipts=modules.match_reports(state.plan.receipts))
        return [reports, summary(state), self._whose(values, pending)]

    def _whose(self, values: tuple[Any, ...], pending: Any) -> Any:
        """The line that says where the settings are from."""
        config, _ = self.form.read(values)
        module_map = service.models.known(self.lab, config.model) if config is not None else None
        if config is None or module_map is None:
            return gr.skip()
        defaults = service.planning.starting_config(config.model, module_map)
        return settings_source.line(settings_source.parse(pending, self.form), config, defaults)

    def count_examples(self, *values: Any) -> None:
        """Read data that are quick to read, so that the plan knows how many steps the run takes."""
        config, issues = self.form.read(values)
        if config is not None and not any(issue.field.startswith(DATA_SETTINGS) for issue in issues):
            with contextlib.suppress(UserError):  # Preview data and Train report the problem
                service.data.read_if_quick(self.lab, config)

    def train(self, request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        """Start a run, or show all problems and start nothing. Checking the data may take a while."""
        config, _ = self.form.read(values)
        self.refusals.forget(request)
        if config is not None:
            service.models.module_map(self.lab, config.model)  # waits for it; raises if it cannot be read
        state = self._state(values)
        plan = state.plan
        if config is None or plan is None or state.issues:
            self.refusals.remember(request, values)
            yield [summary(replace(state, refused=True)), gr.skip()]
            return
        try:
            run = yield from self.checks.follow(
                request,
                lambda monitor: service.runs.start(self.lab, config, plan, monitor),
                lambda *done: [summary(replace(state, progress=data_report.progress(*done))), gr.skip()],
            )
        except Canceled:
            yield [summary(state), gr.skip()]
        except InvalidConfig as error:
            self.refusals.remember(request, values, error.issues)
            yield [summary(replace(state, issues=error.issues, refused=True)), gr.skip()]
        except UserError:
            yield [summary(state), gr.skip()]
            raise
        else:
            yield [summary(state), run.id]

    def _state(self, values: tuple[Any, ...]) -> State:
        """The plan, all problems, and, if there is no plan yet, what it waits for."""
        config, invalid = self.form.read(values)
        if config is None or service.models.known(self.lab, config.model) is None:
            return State(issues=tuple(invalid), waiting=READING)
        try:
            plan = service.planning.plan(self.lab, config)
        except UserError as error:  # new tokens, but the model's tokenizer cannot be read
            return State(issues=(*invalid, Issue("model.new_tokens", error.problem, error.fix)))
        # the plan is that of the defaults where values are invalid, unless they are of the data alone
        others = tuple(issue.field for issue in invalid if not issue.field.startswith(("data.", "title")))
        return State(plan, (*invalid, *plan.issues), others)


def run_values(run: Run) -> list[str]:
    """Values of `TrainTab.model_inputs` that show a run's settings without its title, and the run in the live panel;
    pass the event to `TrainTab.show_after`. Raises UserError if its configuration cannot be read."""
    if run.config is None:
        raise UserError(run.problem, "Choose another run.", "data")
    return settings_source.values(Source(replace(run.config, title=""), "run", run.title, run.id))


def _model(name: str | None, revision: str | None) -> ModelConfig:
    return ModelConfig(name=(name or "").strip(), revision=(revision or "").strip() or "main")
