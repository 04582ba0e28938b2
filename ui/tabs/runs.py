"""The Runs tab: all runs in one table, and actions on the selected run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from trainer import service
from trainer.common import formatting
from trainer.common.errors import UserError
from trainer.common.progress import ProgressMonitor
from trainer.service.experiments import MAX_COMPARED
from trainer.service.lab import Lab
from trainer.service.runs import ACTIVE, ENDED, MAX_TITLE
from ui import download
from ui.components import component
from ui.handlers import DIRECT, QUEUED, event_value, inform, show_errors
from ui.panels.attribution import AttributionPanel
from ui.panels.live_run import digest, parts
from ui.tabs.train import TrainTab, run_values
from ui.views import HTML

TEMPLATE = """<div class="runs">
<div class="runs-search"><label for="runs-search">Search runs</label>
<input type="search" id="runs-search" placeholder="name, model, module, state" autocomplete="off"></div>
<div class="selection" hidden><label><input type="checkbox" aria-label="Select all visible runs">
<span class="count" aria-live="polite"></span></label>
<button type="button" data-action="compare" hidden>Compare</button>
<button type="button" data-action="stop" hidden>Stop</button>
<button type="button" data-action="resume" hidden>Resume</button>
<button type="button" data-action="delete" hidden>Delete…</button>
<button type="button" data-action="clear" hidden>Clear selection</button></div>
<div class="scroll"><table><thead><tr></tr></thead><tbody></tbody></table></div>
<div class="empty" hidden><strong></strong><span></span></div>
<dialog aria-labelledby="delete-title"><h2 id="delete-title"></h2><ul></ul>
<p>Their adapters, checkpoints and logs are deleted as well. This cannot be undone.</p>
<div class="dialog-buttons"><button type="button" class="cancel">Cancel</button>
<button type="button" id="run-really">Delete</button></div></dialog>
</div>"""
ACTIONS: dict[str, tuple[str, Callable[[Lab, str], object]]] = {
    "stop": ("Stopping", service.runs.stop_open),
    "resume": ("Resumed", service.runs.resume),
    "delete": ("Deleted", service.runs.delete),
}
"""What can be done with many runs: how it is reported, and how it is done with one."""
render = HTML.macros("run_facts.html")
FILES = render("files", service.run_files.FORMATS)
NOTHING = render("nothing")


class RunsTab:
    """Builds the tab; handlers get the run's id from the browser and validate it every time."""

    def __init__(self, lab: Lab, train: TrainTab, tabs: gr.Tabs, tab: gr.Tab) -> None:
        self.lab, self.tabs = lab, tabs
        self._texts: dict[str, tuple[dict[str, Any], str]] = {}
        self.table = component(
            "runs_table.js", TEMPLATE, "runs-table", label="Runs", elem_classes="card", ended="", open=""
        )
        self.results = gr.HTML("", apply_default_css=False, elem_id="batch-results")
        with gr.Column(elem_id="run-actions", elem_classes="card"):
            self.facts = gr.HTML(NOTHING, apply_default_css=False)
            with gr.Row(elem_id="run-buttons", visible=False) as self.buttons:
                self.open = gr.Button("Open", variant="primary", size="sm", elem_id="run-open")
                self.reuse = gr.Button("Use its settings", size="sm", elem_id="run-reuse")
                self.resume = gr.Button("Resume", size="sm", elem_id="run-resume")
                self.first = gr.Button("Put first", size="sm", elem_id="run-first")
                self.stop = gr.Button("Stop", size="sm", elem_id="run-stop")
                self.kill = gr.Button("Kill", size="sm", variant="stop", elem_id="run-kill")
                self.fetch = gr.Button("Download adapter", size="sm", elem_id="run-download")
                self.delete = gr.Button("Delete…", size="sm", elem_id="run-delete")
            with gr.Row(elem_id="run-longer", visible=False) as self.longer:
                self.epochs = gr.Number(1, label="More epochs", minimum=0, elem_id="run-epochs")
                self.train_on = gr.Button("Train longer", size="sm", elem_id="run-train-longer")
            with gr.Row(elem_id="run-rename", visible=False) as self.naming:
                self.name = gr.Textbox(label="Name", max_lines=1, max_length=MAX_TITLE, elem_id="run-name")
                self.rename = gr.Button("Rename", size="sm", elem_id="run-rename-button")
        with gr.Column(elem_id="run-files-card", elem_classes="card", visible=False) as self.files_card:
            self.files = component("run_files.js", FILES, "run-files", run="")
        self.earned = AttributionPanel(lab)
        self.timer = gr.Timer(1.5, active=False)
        # what the page already shows; the browser keeps it, so that a lost response is sent again
        self.rows = gr.Textbox("", label="Rows shown", visible="hidden")
        self.seen = gr.Textbox("", label="Facts shown", visible="hidden")
        self._wire(train, tabs, tab)

    def _wire(self, train: TrainTab, tabs: gr.Tabs, tab: gr.Tab) -> None:
        live = train.live
        chosen, table = self.table, [self.table, self.rows]
        facts = [self.facts, self.buttons, self.naming, self.longer, self.resume, self.first, self.stop, self.kill]
        facts += [self.fetch, self.delete, self.files_card, self.files, *self.earned.outputs, self.seen]

        def after(event: Any) -> Any:
            listed = event.then(self.list_runs, self.rows, table, **DIRECT)
            return listed.then(self.show, [chosen, self.seen], facts, **DIRECT)

        after(tab.select(lambda: gr.Timer(active=True), None, self.timer, **DIRECT))
        after(self.timer.tick(lambda: None, None, None, **DIRECT))
        chosen.change(self.show, [chosen, self.seen], facts, **DIRECT).then(
            self.show_name, chosen, self.name, **DIRECT
        )
        self.open.click(
            show_errors(self.opened), chosen, [live.shown, tabs, self.timer], **QUEUED
        ).success(live.refresh, [live.shown, live.seen], live.outputs, **DIRECT)  # fmt: skip
        train.show_after(
            self.reuse.click(show_errors(self.reused), chosen, [*train.model_inputs, tabs, self.timer], **QUEUED)
        )
        after(self.stop.click(show_errors(self.stopped), chosen, None, **QUEUED))
        after(self.kill.click(show_errors(self.killed), chosen, None, **QUEUED))
        after(self.resume.click(show_errors(self.resumed), chosen, None, **QUEUED))
        after(self.first.click(show_errors(self.put_first), chosen, None, **QUEUED))
        after(self.train_on.click(show_errors(self.trained_longer), [chosen, self.epochs], None, **QUEUED))
        for event in (self.rename.click, self.name.submit):
            after(event(show_errors(self.renamed), [chosen, self.name], None, **QUEUED))
        self.delete.click(None, chosen, None, js="(run) => window.askToDelete([run?.value ?? run])")
        after(self.table.batch(show_errors(self.acted_on_many), None, self.results, **QUEUED))
        self.earned.wire(chosen, after)
        download.wire(self.fetch, self.exported, chosen, "run-file")

    def compare_in(self, pick: gr.HTML) -> None:
        """Let Compare choose the selected runs in `pick`, and show them."""
        outputs = [pick, self.tabs, self.timer]
        self.table.picked(show_errors(self.picked), None, outputs, **QUEUED)
        self.earned.compare.click(show_errors(self.picked_retrained), self.table, outputs, **QUEUED)

    def picked(self, event: gr.EventData) -> list[Any]:
        ids = [run_id for run_id in _ids(event) if self._run(run_id)]
        if len(ids) > MAX_COMPARED:
            raise UserError(f"{len(ids)} runs are too many to compare.", f"Select at most {MAX_COMPARED}.", "data")
        return [json.dumps({"runs": ids}), gr.Tabs(selected="compare"), gr.Timer(active=False)]

    def picked_retrained(self, run_id: str | None) -> list[Any]:
        """The selected run, and the one that trained it again without some of its kinds."""
        run = self._run(run_id)
        other = service.retraining.retrained_run(self.lab, run.id)
        if other is None:
            raise UserError("The run that trained it again is gone.", "Train it again.", "data")
        return [json.dumps({"runs": [run.id, other.id]}), gr.Tabs(selected="compare"), gr.Timer(active=False)]

    def list_runs(self, seen: str) -> list[Any]:
        """Rows that the page does not have yet: of ended runs, and of open runs."""
        previous, self._texts = self._texts, {}
        texts_by_state: dict[str, list[str]] = {"ended": [], "open": []}
        for row in self.lab.store.summaries():
            old = previous.get(row["id"])
            kept = self._texts[row["id"]] = old if old and old[0] is row else (row, json.dumps(_row(row)))
            texts_by_state["ended" if row["state"] in ENDED else "open"].append(kept[1])
        rows = {name: f"[{','.join(texts)}]" for name, texts in texts_by_state.items()}
        digests = [digest(text) for text in rows.values()]
        news: dict[str, Any] = {
            name: rows[name] for name, now, had in zip(rows, digests, parts(seen, 2), strict=True) if now != had
        }
        return [gr.update(**news), "|".join(digests)] if news else [gr.skip(), gr.skip()]

    def show(self, run_id: str | None, seen: Any) -> list[Any]:
        """Facts and buttons of the selected run."""
        try:
            run = self._run(run_id)
        except UserError:
            hidden = gr.update(visible=False)
            shown = [NOTHING, hidden, hidden, hidden, *[gr.skip()] * 6, hidden, gr.update(run="")]
            return [*shown, *self.earned.hidden(), ""]
        row, has_adapter = run.summary(), run.has_adapter
        facts = _facts(row, service.runs.general_loss(run))
        now = digest(f"{facts} {has_adapter} {self.earned.stamp(run)}")
        if now == seen:
            return [gr.skip()] * (13 + len(self.earned.outputs))
        state = row["state"]
        can_stop = state in ("queued", *ACTIVE)
        can_resume = state in ("stopped", "interrupted", "failed")
        return [
            facts,
            gr.update(visible=True),
            gr.update(visible=True),
            gr.update(visible=state in ENDED and not run.problem),
            gr.update(visible=can_resume and not run.problem),
            gr.update(visible=state == "queued"),
            gr.update(value="Stop now" if state == "stopping" else "Stop", visible=can_stop),
            gr.update(visible=row["silent"] is not None),
            gr.update(interactive=has_adapter),
            gr.update(interactive=state not in ACTIVE),
            gr.update(visible=True),
            gr.update(run=run.id),
            *self.earned.shown(run),
            now,
        ]

    def show_name(self, run_id: str | None) -> str:
        """Put the selected run's name into its box."""
        try:
            return str(self._run(run_id).title)
        except UserError:
            return ""

    def opened(self, run_id: str | None) -> list[Any]:
        return [self._run(run_id).id, gr.Tabs(selected="train"), gr.Timer(active=False)]

    def reused(self, run_id: str | None) -> list[Any]:
        """The selected run's configuration for the Train tab, without its title."""
        return [*run_values(self._run(run_id)), gr.Tabs(selected="train"), gr.Timer(active=False)]

    def stopped(self, run_id: str | None) -> None:
        inform(service.runs.stop(self.lab, self._run(run_id).id))

    def killed(self, run_id: str | None) -> None:
        inform(service.runs.kill(self.lab, self._run(run_id).id))

    def exported(self, run_id: str | None, monitor: ProgressMonitor) -> Path:
        return service.exports.adapter(self.lab, self._run(run_id).id, monitor=monitor)

    def resumed(self, run_id: str | None) -> None:
        service.runs.resume(self.lab, self._run(run_id).id)

    def put_first(self, run_id: str | None) -> None:
        service.runs.put_first(self.lab, self._run(run_id).id)

    def trained_longer(self, run_id: str | None, epochs: float | None) -> None:
        if not isinstance(epochs, int | float) or epochs <= 0:
            raise UserError("The number of epochs is missing.", "Enter how many more epochs to train.", "data")
        service.runs.resume(self.lab, self._run(run_id).id, epochs)

    def renamed(self, run_id: str | None, title: str | None) -> None:
        self.lab.store.rename(self._run(run_id).id, title or "")

    def acted_on_many(self, event: gr.EventData) -> Markup:
        """Stop, resume or delete the selected runs; says for each one what became of it."""
        ids, action = _ids(event), str(event_value(event, "action"))
        if action not in ACTIONS:
            raise UserError("This is not how the page calls the app.", "Reload the page.", "data")
        done, act = ACTIONS[action]
        failed = []
        for run_id in ids:
            name = service.runs.title(self.lab, run_id)
            try:
                act(self.lab, run_id)
            except UserError as error:
                failed.append((name, str(error)))
        return render("results", done, action, len(ids) - len(failed), failed)

    def _run(self, run_id: str | None) -> Any:
        if not run_id:
            raise UserError("No run is selected.", "Select one in the table.", "data")
        return self.lab.store.get(str(run_id))


def _ids(event: gr.EventData) -> list[str]:
    """The selected runs that came with an event."""
    ids = event_value(event, "ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(item, str) for item in ids):
        raise UserError("No run is selected.", "Select some in the table.", "data")
    return ids


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A summary as the table needs it: raw values to sort by, texts to show."""
    keys = ("id", "state", "name", "model", "modules", "data", "loss", "eval_loss", "trainable", "created")
    shown = {
        "loss": formatting.loss(row["loss"]),
        "eval_loss": formatting.loss(row["eval_loss"]),
        "trainable": formatting.count(row["trainable"]),
        "elapsed": formatting.duration(row["elapsed"]) if row["elapsed"] else "–",
        "created": formatting.moment(row["created"]),
    }
    return {key: row[key] for key in keys} | {"elapsed": round(row["elapsed"]) or None, "shown": shown}


def _facts(row: dict[str, Any], general_loss: str) -> Markup:
    notes = (
        row["model"],
        f"data {row['data']}" if row["data"] else "",
        f"step {row['step']:,} of {row['steps']:,}" if row["steps"] else "",
        f"best eval loss {formatting.loss(row['best_eval_loss'])}" if row["best_eval_loss"] is not None else "",
        f"general text: loss {general_loss}" if general_loss else "",
        f"adapter {formatting.size(row['adapter_bytes'])}" if row["adapter_bytes"] else "",
        row["id"],
    )
    kind = "silent" if row["silent"] is not None else "unchanged" if row["unchanged"] else row["state"]
    return render("facts", row, notes, kind)
