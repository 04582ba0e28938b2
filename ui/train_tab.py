"""The Train tab: model, modules, data, settings, summary, Train, and the live side beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from trainer.config import ModelConfig, RunConfig, default_config
from trainer.errors import InvalidConfig, Issue, UserError
from trainer.lab import Lab
from trainer.plan import Plan
from ui import live, modules_panel, settings_panel
from ui.form import FILE, TICKS, Form
from ui.summary import summary
from ui.tell import DIRECT, QUEUED, told

READING = "The plan appears once a model's modules are read."


class TrainTab:
    """Builds the tab and holds what its handlers need: the lab and the form."""

    def __init__(self, lab: Lab, page: gr.Blocks) -> None:
        self.lab, self.form = lab, Form()
        with gr.Row(elem_id="bench"):
            with gr.Column(elem_id="col-modules", min_width=0), gr.Column(elem_classes="card"):
                model = self.form.add("model.name", choices=lab.models(), allow_custom_value=True, elem_id="model")
                self.panel = self.form.components[TICKS] = modules_panel.build()
            with gr.Column(elem_id="col-settings", min_width=0):
                with gr.Column(elem_classes="card", elem_id="settings"):
                    upload = settings_panel.build_data(self.form)
                    settings_panel.build_settings(self.form)
                with gr.Column(elem_classes="card", elem_id="go"):
                    self.summary = gr.HTML(summary(None, (), waiting=READING), apply_default_css=False)
                    button = gr.Button("Train", variant="primary", elem_id="train")
                    self.scenarios = gr.Button("Run scenarios…", size="sm", elem_id="run-scenarios")
            with gr.Column(elem_id="col-live", min_width=0):
                self.live = live.build(lab)
        self._wire(page, model, upload, button)

    def _wire(self, page: gr.Blocks, model: Any, upload: Any, button: Any) -> None:
        form, plan_outputs = self.form, [self.panel, self.summary]
        named = [model, form.components["model.revision"]]
        everything = [self.panel, self.summary, *(form.components[path] for path in form.filled)]
        for event in (page.load, model.change):
            event(self.read_model, named, everything, trigger_mode="always_last", **QUEUED).then(
                self.plan, form.inputs, plan_outputs, **DIRECT
            )
        page.load(lambda: gr.update(choices=self.lab.models()), None, model, **DIRECT)
        page.load(self.live.refresh, [self.live.shown, self.live.seen], self.live.outputs, **DIRECT)
        gr.on(
            [item.change for path, item in form.components.items() if path != "model.name"],
            self.plan, form.inputs, plan_outputs, trigger_mode="always_last", **DIRECT,
        )  # fmt: skip
        upload.upload(
            told(lambda path: self.lab.add_data(Path(path))), upload, form.components[FILE],
            show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        button.click(told(self.train), form.inputs, [self.summary, self.live.shown], **QUEUED).then(
            self.live.refresh, [self.live.shown, self.live.seen], self.live.outputs, **DIRECT
        )

    def read_model(self, name: str | None, revision: str | None) -> Iterator[list[Any]]:
        """Read a model's modules; then its ticks and settings start from what fits it."""
        name = (name or "").strip()
        untouched = [gr.skip()] * len(self.form.filled)
        model = ModelConfig(name=name, revision=(revision or "").strip() or "main")
        if self.lab.helper.known(model) is None:
            yield [modules_panel.update(modules_panel.reading(name)), summary(None, (), waiting=READING), *untouched]
        try:
            if not name:
                raise UserError("No model is chosen.", "Choose the demo, a folder, or write a hub id owner/name.")
            found = self.lab.module_map(RunConfig(model=model))
        except UserError as error:
            yield [modules_panel.update(modules_panel.failed(error)), gr.skip(), *untouched]
            return
        ticks = modules_panel.starting_ticks(found)
        yield [
            modules_panel.update(modules_panel.payload(found), ticks),
            gr.skip(),
            *self.form.fill(default_config(name)),
        ]

    def plan(self, *values: Any) -> list[Any]:
        """Receipts and summary of what the page shows. Light: arithmetic over a map that is read already."""
        plan, issues, waiting = self._judge(values)
        if plan is None:
            return [gr.skip(), summary(None, issues, waiting=waiting)]
        return [gr.update(receipts=modules_panel.receipts(plan.receipts)), summary(plan, issues)]

    def train(self, *values: Any) -> list[Any]:
        """Start a run, or show every problem at once and start nothing."""
        config, issues = self.form.read(values)
        if config is not None:
            self.lab.module_map(config)  # waits while it is being read; says why where it cannot be
        plan, issues, _ = self._judge(values)
        if config is not None and not issues:
            try:
                return [gr.skip(), self.lab.train(config).id]
            except InvalidConfig as error:
                issues = list(error.issues)
        return [summary(plan, issues, refused=True), gr.skip()]

    def _judge(self, values: tuple[Any, ...]) -> tuple[Plan | None, list[Issue], str]:
        """The plan, all problems, and, where there is no plan, what it waits for."""
        config, issues = self.form.read(values)
        if config is None or self.lab.helper.known(config.model) is None:
            return None, issues, READING
        plan = self.lab.plan(config)
        return plan, [*issues, *plan.issues], ""
