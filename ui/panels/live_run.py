"""The live panel: follows one run with a timer that reads its folder, so that every tab and reload shows the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from trainer import service
from trainer.common.errors import UserError
from trainer.service.lab import Lab
from trainer.service.runs import ACTIVE, Run
from ui import download
from ui.components import chart
from ui.handlers import DIRECT, QUEUED, inform, show_errors
from ui.panels import samples
from ui.views import run_progress

SEEN_PARTS = 5
"""Parts of `Live.seen`, of which the first is the run's id."""


@dataclass
class Live:
    """The components of the live panel."""

    shown: gr.Textbox
    """Id of the run that was opened; empty: the newest active run, or else the newest run."""
    seen: gr.Textbox
    """What the page already shows, so that a refresh without news sends nothing. The browser keeps it rather than the
    server, so that a response that got lost is sent again."""
    status: gr.HTML
    chart: gr.HTML
    samples: gr.HTML
    figures: gr.HTML
    stop: gr.Button
    kill: gr.Button
    download: gr.Button
    refresh: Callable[..., Any]

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        return [self.status, self.chart, self.samples, self.figures, self.stop, self.kill, self.download, self.seen]


def build(lab: Lab) -> Live:
    """Build the live panel and start its timer."""
    shown = gr.Textbox("", label="Opened run", visible="hidden")
    seen = gr.Textbox("", label="What the page shows", visible="hidden")
    with gr.Column(elem_id="live-card", elem_classes="card"):
        with gr.Row(elem_id="live-top"):
            status = gr.HTML(run_progress.EMPTY, apply_default_css=False, elem_id="live-status")
            with gr.Row(elem_id="live-buttons"):
                stop = gr.Button("Stop", size="sm", visible=False, elem_id="stop")
                kill = gr.Button("Kill", size="sm", variant="stop", visible=False, elem_id="kill")
                fetch = gr.Button("Download adapter", size="sm", visible=False, elem_id="download")
        losses = chart("loss-chart", "Loss curves of the run", visible=False)
        answers = samples.build()
        figures = gr.HTML("", apply_default_css=False, elem_id="live-figures")

    live = Live(
        shown, seen, status, losses, answers, figures, stop, kill, fetch, lambda *values: refresh(lab, *values)
    )
    gr.Timer(1).tick(live.refresh, [shown, seen], live.outputs, **DIRECT)
    for button, action in ((stop, service.runs.stop), (kill, service.runs.kill)):
        button.click(show_errors(_on_displayed(lab, action)), seen, None, **QUEUED).then(
            live.refresh, [shown, seen], live.outputs, **DIRECT
        )
    download.wire(
        fetch, show_errors(lambda value: service.exports.adapter(lab, displayed(lab, value).id)), seen, "live-file"
    )
    return live


def refresh(lab: Lab, shown: str | None, seen: str | None) -> list[Any]:
    """Everything that has changed since `seen`; the rest is skipped."""
    run = current(lab, shown or "")
    if run is None:
        return _nothing() if seen else [gr.skip()] * 8
    state, has_adapter, silent = run.state, run.has_adapter, run.history.silence() is not None
    status = run_progress.status(run, state)
    now = [run.id, f"{run.history.version} {state}", f"{state} {has_adapter} {silent}", digest(status)]
    now.append(service.runs.samples_version(run))
    old = parts(seen, SEEN_PARTS)
    if now == old:
        return [gr.skip()] * 8
    other_run, new_steps, new_state, new_status, new_samples = (
        new != before for new, before in zip(now, old, strict=True)
    )
    figure = service.runs.loss_figure(run.history, run.id) if other_run or new_steps else None
    return [
        status if new_status else gr.skip(),
        gr.update(figure=json.dumps(figure), visible=True) if figure is not None else gr.skip(),
        gr.update(samples=samples.content(run)) if other_run or new_samples else gr.skip(),
        run_progress.figures(run) if figure is not None else gr.skip(),
        _stop_button(state) if other_run or new_state else gr.skip(),
        gr.update(visible=silent) if other_run or new_state else gr.skip(),
        gr.update(visible=not silent, interactive=has_adapter) if other_run or new_state else gr.skip(),
        "|".join(now),
    ]


def digest(content: str) -> str:
    """A short hash of a text, to compare it by."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def parts(seen: str | None, number: int) -> list[str]:
    """The parts of what the browser says it shows; all empty if that is invalid."""
    values = (seen or "").split("|")
    return values if len(values) == number else [""] * number


def _nothing() -> list[Any]:
    """The live panel without a run."""
    hidden = gr.update(visible=False)
    return [run_progress.EMPTY, hidden, gr.update(samples="{}"), "", hidden, hidden, hidden, ""]


def current(lab: Lab, shown: str) -> Run | None:
    """The run to show: the opened one if it still exists, else the newest active one, else the newest."""
    if shown:
        try:
            return lab.store.get(shown)
        except UserError:
            pass  # deleted in the meantime
    for run in reversed(lab.store.open_runs()):
        if run.history.recorded in ACTIVE and run.history.state in ACTIVE:
            return run
    for run_id in lab.store.ids():
        try:
            return lab.store.get(run_id)
        except UserError:
            continue  # deleted in the meantime
    return None


def displayed(lab: Lab, seen: str | None) -> Run:
    """The run that the page shows, even if another one has started since."""
    return lab.store.get(parts(seen, SEEN_PARTS)[0])


def _on_displayed(lab: Lab, action: Callable[[Lab, str], str]) -> Callable[[str | None], None]:
    """A handler that does something with the run that the page shows, and says what was done."""
    return lambda seen: inform(action(lab, displayed(lab, seen).id))


def _stop_button(state: str) -> Any:
    title = "Stop now" if state == "stopping" else "Stop"
    return gr.update(value=title, visible=state in ("queued", *ACTIVE))
