"""The live side: one run, followed by a timer that reads its folder. Reloads and tabs see the same."""

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
from ui.handlers import DIRECT, QUEUED, inform, told
from ui.views import run_progress

FACTS = 4
"""Parts of what the page says that it shows; the first is the run's id."""


@dataclass
class Live:
    """The components of the live side."""

    shown: gr.Textbox
    """Id of the run that was opened; empty: the newest active run, else the newest."""
    seen: gr.Textbox
    """What the page shows already, so that a refresh without news sends nothing. The browser keeps it, not the
    server: an answer that never arrived is then sent again."""
    status: gr.HTML
    chart: gr.HTML
    figures: gr.HTML
    stop: gr.Button
    download: gr.Button
    refresh: Callable[..., Any]

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        return [self.status, self.chart, self.figures, self.stop, self.download, self.seen]


def build(lab: Lab) -> Live:
    """Make the live side and start its timer."""
    shown = gr.Textbox("", label="Opened run", visible="hidden")
    seen = gr.Textbox("", label="What the page shows", visible="hidden")
    with gr.Column(elem_id="live-card", elem_classes="card"):
        with gr.Row(elem_id="live-top"):
            status = gr.HTML(run_progress.EMPTY, apply_default_css=False, elem_id="live-status")
            with gr.Row(elem_id="live-buttons"):
                stop = gr.Button("Stop", size="sm", visible=False, elem_id="stop")
                fetch = gr.Button("Download adapter", size="sm", visible=False, elem_id="download")
        losses = chart("loss-chart", "Loss curves of the run", visible=False)
        figures = gr.HTML("", apply_default_css=False, elem_id="live-figures")

    live = Live(shown, seen, status, losses, figures, stop, fetch, lambda *values: refresh(lab, *values))
    gr.Timer(1).tick(live.refresh, [shown, seen], live.outputs, **DIRECT)
    stop.click(told(lambda value: _stop(lab, value)), seen, None, **QUEUED).then(
        live.refresh, [shown, seen], live.outputs, **DIRECT
    )
    download.wire(
        fetch, told(lambda value: service.exports.adapter(lab, displayed(lab, value).id)), seen, "live-file"
    )
    return live


def refresh(lab: Lab, shown: str | None, seen: str | None) -> list[Any]:
    """Everything that is new since `seen`; what is not is skipped."""
    run = current(lab, shown or "")
    if run is None:
        return _nothing() if seen else [gr.skip()] * 6
    state, has_adapter = _state(run), run.adapter.is_dir()
    status = run_progress.status(run, state)
    now = [run.id, f"{run.history.version} {state}", f"{state} {has_adapter}", digest(status)]
    old = parts(seen, FACTS)
    if now == old:
        return [gr.skip()] * 6
    other, drawn, buttons, told_status = (new != before for new, before in zip(now, old, strict=True))
    figure = service.runs.loss_figure(run.history, run.id) if other or drawn else None
    return [
        status if told_status else gr.skip(),
        gr.update(figure=json.dumps(figure), visible=True) if figure is not None else gr.skip(),
        run_progress.figures(run) if figure is not None else gr.skip(),
        _stop_button(state) if other or buttons else gr.skip(),
        gr.update(visible=True, interactive=has_adapter) if other or buttons else gr.skip(),
        "|".join(now),
    ]


def digest(content: str) -> str:
    """A short name of a content, to compare it by."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def parts(seen: str | None, number: int) -> list[str]:
    """What the browser says that it shows; foreign text counts as nothing."""
    found = (seen or "").split("|")
    return found if len(found) == number else [""] * number


def _nothing() -> list[Any]:
    """The live side without a run."""
    hidden = gr.update(visible=False)
    return [run_progress.EMPTY, hidden, "", hidden, hidden, ""]


def current(lab: Lab, shown: str) -> Run | None:
    """The run to show: the one opened if it is still there, else the newest active one, else the newest."""
    if shown:
        try:
            return lab.store.get(shown)
        except UserError:
            pass  # deleted meanwhile
    for run in reversed(lab.store.open_runs()):
        if run.history.recorded in ACTIVE and run.history.state in ACTIVE:
            return run
    for run_id in lab.store.ids():
        try:
            return lab.store.get(run_id)
        except UserError:
            continue  # deleted meanwhile
    return None


def displayed(lab: Lab, seen: str | None) -> Run:
    """The run that the page shows, and no other that may have begun since."""
    return lab.store.get(parts(seen, FACTS)[0])


def _stop(lab: Lab, seen: str | None) -> None:
    inform(service.runs.stop(lab, displayed(lab, seen).id))


def _stop_button(state: str) -> Any:
    title = "Stop now" if state == "stopping" else "Stop"
    return gr.update(value=title, visible=state in ("queued", *ACTIVE))


def _state(run: Run) -> str:
    return "failed" if run.problem else run.history.state
