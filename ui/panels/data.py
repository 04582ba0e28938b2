"""The Data group of the Train tab, and the sheet behind "Preview data": what was recognized, what is wrong
with it, how long the examples are, and single ones as the model sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from trainer import service
from trainer.common.errors import UserError
from trainer.config.schema import RunConfig
from trainer.service.lab import Lab
from ui.components import chart, component
from ui.data_checks import Checks
from ui.form import FILE, HUB, Form
from ui.handlers import DIRECT, QUEUED, show_errors
from ui.views import HTML, data_report, mask_test
from ui.views.length_chart import lengths_figure

DATA_KINDS = [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".zst"]
COLUMNS = ("messages", "prompt", "input", "completion", "system", "text")
MENUS = [f"data.{name}_column" for name in COLUMNS] + ["data.template", "data.loss_on", "data.bad_rows"]
MENUS += ["data.reasoning", "data.answer_end", "data.preference_rows", "data.media"]
BOXES = ["data.assistant_role", "data.roles", "data.system_prompt", "data.held_out", "data.eval_fraction"]
"""Settings of the sheet: a change of one updates the report, of a box when it loses focus."""
MAX_FILES, MAX_NAMES = 32, 40
TITLE = HTML.macros("page.html")("heading", "Data preview")
NAMES = '<div class="names"></div>'


class DataPanel:
    """Builds the group and the sheet, and wires them."""

    def __init__(self, lab: Lab, form: Form, checks: Checks) -> None:
        self.lab, self.form, self.checks = lab, form, checks
        source = form.add("data.source", component=gr.Radio, label="Data", elem_id="data-source", info=None)
        with gr.Column(visible=False, elem_classes="bare") as file_group:
            self.upload = _upload_button("Choose files", "data-upload")
            form.components[FILE] = gr.Textbox(
                label="Uploaded files", interactive=False, max_lines=1, elem_id="data-file", elem_classes="setting",
                placeholder="None yet: JSONL, JSON, CSV, TSV, Parquet or text; also .gz and .zst",
            )  # fmt: skip
        with gr.Column(visible=False, elem_classes="bare") as hub_group:
            form.components[HUB] = gr.Textbox(
                label="Hub data set",
                placeholder="owner/name",
                max_lines=1,
                elem_classes="setting",
                elem_id="data-hub",
            )
            with gr.Row(elem_classes="pair"):
                form.add("data.subset", placeholder="none")
                form.add("data.split")
        with gr.Row(elem_id="data-look"):
            self.open = gr.Button("Preview data", size="sm", elem_id="data-open")
            self.line = gr.HTML("", apply_default_css=False, elem_id="data-line")
        source.change(
            lambda chosen: (gr.update(visible=chosen == "file"), gr.update(visible=chosen == "hub")),
            source, [file_group, hub_group], queue=False, show_progress="hidden", api_visibility="private",
        )  # fmt: skip

    def build_sheet(self) -> None:
        """The sheet, which lies over the page."""
        self.sheet = gr.Column(visible=False, elem_id="data-sheet")
        with self.sheet, gr.Column(elem_id="data-card", elem_classes="card"):
            with gr.Row(elem_id="data-top"):
                component("data_sheet.js", TITLE, "data-title")
                self.cancel = gr.Button("Cancel", size="sm", elem_id="data-cancel")
                self.close = gr.Button("Close", size="sm", elem_id="data-close")
            self.progress = gr.HTML("", apply_default_css=False, elem_id="data-progress")
            with gr.Column(elem_id="data-body", elem_classes="bare"):
                with gr.Column(elem_classes="bare", elem_id="data-left"):
                    self._build_left()
                with gr.Column(elem_classes="bare", elem_id="data-right"):
                    self._build_right()
        self.number = gr.Textbox("0", label="Number of the example", visible="hidden")
        self.opened = gr.Textbox("", label="Whether the preview is open", visible="hidden")

    def _build_left(self) -> None:
        form = self.form
        self.overview = gr.HTML("", apply_default_css=False, elem_id="data-overview")
        self.problems: Any = component("summary.js", "${value}", "data-problems")
        self.names = component("role_names.js", NAMES, "data-names", label="Roles", content="{}")
        with gr.Column(elem_classes="grid bare", elem_id="data-choices"):
            form.add("data.bad_rows")
            form.add("data.loss_on")
            form.add("data.template")
            form.add("data.reasoning")
            form.add("data.answer_end")
            form.add("data.assistant_role", placeholder="assistant, gpt, …")
            form.add("data.preference_rows")
            form.add("data.media")
            form.add("data.roles", placeholder="narrator=user, pirate=assistant", elem_classes=["setting", "wide"])
        fold = gr.Accordion("Choose the columns", open=False, elem_id="data-columns")
        with fold, gr.Column(elem_classes="grid bare"):
            for name in COLUMNS:
                form.add(f"data.{name}_column", choices=[("recognized", "")], allow_custom_value=True)
        with gr.Accordion("Held-out data, general text, system prompt", open=False, elem_id="data-more"):
            with gr.Column(elem_classes="grid bare"):
                form.add("data.eval_fraction")
                form.add("data.held_out", placeholder="none: a fraction")
                form.add("data.general_text", placeholder="40 bundled passages")
                form.add("data.system_prompt", lines=2, max_lines=6, elem_classes=["setting", "wide"])
            self.held_out_upload = _upload_button("Choose a held-out file", "data-upload-held-out")
            self.general_upload = _upload_button("Choose a general text", "data-upload-general")

    def _build_right(self) -> None:
        self.chart = chart("data-chart", "Lengths of the examples", visible=False)
        self.suggest = gr.Button("", size="sm", visible=False, elem_id="data-suggest")
        with gr.Row(elem_id="data-steps"):
            self.steps = {
                which: gr.Button(name, size="sm", elem_id=f"example-{which}")
                for which, name in (("previous", "Previous"), ("next", "Next"), ("random", "Random"),
                                    ("longest", "Longest"))
            }  # fmt: skip
        self.example = gr.HTML("", apply_default_css=False, elem_id="data-example")
        self.test = gr.Button("Test the mask", size="sm", visible=False, elem_id="mask-test")
        self.tested = gr.HTML("", apply_default_css=False, elem_id="mask-tested")

    @property
    def _outputs(self) -> list[Any]:
        columns = [self.form.components[f"data.{name}_column"] for name in COLUMNS]
        return [self.progress, self.line, self.overview, self.problems, self.names, self.chart, self.suggest,
                self.example, self.number, self.test, self.tested, *columns]  # fmt: skip

    def wire(self) -> None:
        """Connect everything, once all settings of the page have their components."""
        form, inputs = self.form, [self.opened, self.number, *self.form.inputs]
        refresh = {"inputs": inputs, "outputs": self._outputs, "trigger_mode": "always_last", **QUEUED}
        self.open.click(lambda: (gr.update(visible=True), "yes"), None, [self.sheet, self.opened], **DIRECT).then(
            self.refresh, **refresh
        )
        self.cancel.click(self.checks.cancel, None, None, **DIRECT)
        self.close.click(lambda: (gr.update(visible=False), ""), None, [self.sheet, self.opened], **DIRECT)
        changed = [form.components[path].input for path in MENUS]
        changed += [event for path in BOXES for event in (form.components[path].submit, form.components[path].blur)]
        gr.on(changed, self.refresh, **refresh)
        self.suggest.click(self._take_suggested, inputs, form.components["training.max_length"], **QUEUED).then(
            self.refresh, **refresh
        )
        for which, button in self.steps.items():
            button.click(
                show_errors(lambda *values, which=which: self.step(which, *values)),
                inputs, [self.example, self.number, self.tested],
                trigger_mode="always_last", **QUEUED,
            )  # fmt: skip
        self.test.click(show_errors(self.test_mask), inputs, self.tested, trigger_mode="always_last", **QUEUED)
        filled = [form.components[path] for path in form.filled]
        self.problems.fix(form.fix, None, filled, **DIRECT).then(self.refresh, **refresh)
        roles = form.components["data.roles"]
        self.names.change(_with_roles, [self.names, roles], [roles, self.names], **DIRECT).then(
            self.refresh, **refresh
        )
        self.upload.upload(show_errors(self._keep), self.upload, form.components[FILE], **QUEUED)
        self.held_out_upload.upload(
            show_errors(self._keep), self.held_out_upload, form.components["data.held_out"], **QUEUED
        ).then(self.refresh, **refresh)
        self.general_upload.upload(
            show_errors(self._keep), self.general_upload, form.components["data.general_text"], **QUEUED
        )
        stale = [
            form.components[path] for path in ("data.source", FILE, HUB, "model.name", "data.subset", "data.split")
        ]
        gr.on([item.change for item in stale], lambda: "", None, self.line, **DIRECT)

    def refresh(
        self, request: gr.Request, opened: str | None, number: str | None, *values: Any
    ) -> Iterator[list[Any]]:
        """Make the report, telling how far it is; then show it. Does nothing while the sheet is closed."""
        config, problem = self._config(values)
        if not opened:
            yield [gr.skip()] * len(self._outputs)
        elif config is None:
            yield self._failed(problem)
        else:
            try:
                report = yield from self.checks.follow(
                    request, lambda monitor: service.data.report(self.lab, config, monitor), self._waiting
                )
                yield self._shown(report, config, number or "0")
            except UserError as error:
                yield self._failed(str(error))

    def step(self, which: str, _opened: str | None, number: str | None, *values: Any) -> list[Any]:
        """Another example: the previous, the next, a random one, the longest."""
        config, problem = self._config(values)
        if config is None:
            raise UserError(problem, "", "data")
        at = int(number) if number and number.isdigit() else 0
        which = {"previous": str(at - 1), "next": str(at + 1)}.get(which, which)
        found = service.data.example(self.lab, config, which)
        return [data_report.example(found), str(found["number"]), ""]

    def test_mask(self, _opened: str | None, number: str | None, *values: Any) -> Any:
        """The example that is shown, against what a server does."""
        config, problem = self._config(values)
        if config is None:
            raise UserError(problem, "", "data")
        shown = number if number and number.isdigit() else "0"
        return mask_test.result(service.data.mask_test(self.lab, config, shown), config)

    def _waiting(self, stage: str, share: float) -> list[Any]:
        return [data_report.progress(stage, share), *[gr.skip()] * (len(self._outputs) - 1)]

    def _failed(self, problem: str) -> list[Any]:
        hidden = gr.update(visible=False)
        columns = [gr.skip()] * len(COLUMNS)
        return [
            data_report.failed(problem),
            "",
            "",
            "",
            gr.update(content="{}"),
            hidden,
            hidden,
            "",
            "0",
            hidden,
            "",
            *columns,
        ]

    def _shown(self, report: dict[str, Any], config: RunConfig, number: str) -> list[Any]:
        tokens, example = report["tokens"], ""
        if tokens:
            number = number if number.isdigit() and int(number) < tokens["examples"] else "0"
            example = data_report.example(service.data.example(self.lab, config, number))
        suggested = tokens["suggested_max_length"] if tokens else 0
        differs = bool(suggested) and suggested != config.training.max_length
        choices = [("recognized", ""), *((name, name) for name in report["columns"])]
        return [
            "",
            data_report.line(report),
            data_report.overview(report),
            data_report.problems(report, config),
            gr.update(content=json.dumps({"names": list(report["unknown_roles"].items())[:MAX_NAMES]})),
            gr.update(visible=bool(tokens), figure=json.dumps(lengths_figure(tokens) if tokens else {})),
            gr.update(value=f"Use the suggested max length: {suggested}", visible=differs),
            example,
            number,
            gr.update(visible=bool(tokens)),
            "",
            *[gr.update(choices=choices)] * len(COLUMNS),
        ]

    def _take_suggested(self, _opened: str | None, _number: str | None, *values: Any) -> Any:
        config, _ = self._config(values)
        report = service.data.report(self.lab, config) if config is not None else {"tokens": None}
        return str(report["tokens"]["suggested_max_length"]) if report["tokens"] else gr.skip()

    def _config(self, values: tuple[Any, ...]) -> tuple[RunConfig | None, str]:
        """The configuration that the page shows, or why its data cannot be looked at."""
        config, issues = self.form.read(values)
        wrong = [issue for issue in issues if issue.field.startswith(("data.", "model.", "training.max_length"))]
        if config is None or wrong:
            return None, " ".join(f"{issue.problem} {issue.fix}" for issue in wrong or issues)
        return config, ""

    def _keep(self, uploads: list[str]) -> str:
        if len(uploads) > MAX_FILES:
            raise UserError(f"These are more than {MAX_FILES} files.", "Merge some of them.", "data")
        return " ".join(service.data.take(self.lab, Path(path)) for path in uploads)


def _with_roles(chosen: str, roles: str) -> list[Any]:
    """The setting with the roles that were chosen for names, as JSON; and nothing chosen any more."""
    try:
        pairs = [f"{name}={role}" for name, role in json.loads(chosen)]
    except (TypeError, ValueError):  # nothing chosen, or sent by something else than the page
        return [gr.skip(), gr.skip()]
    return [", ".join(filter(None, [roles.strip().rstrip(","), *pairs])), ""]


def _upload_button(label: str, name: str) -> gr.UploadButton:
    return gr.UploadButton(label, file_types=DATA_KINDS, file_count="multiple", size="sm", elem_id=name)
