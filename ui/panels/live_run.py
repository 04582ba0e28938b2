"""The live panel: follows one run with a timer that reads its folder, so that every tab and reload shows the same."""

from __future__ import annotations

import contextlib
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
from ui.components import chart, component
from ui.handlers import DIRECT, QUEUED, inform, show_errors
from ui.panels import device, run_buttons, samples
from ui.panels.run_buttons import RunButtons
from ui.views import run_progress

OUTPUTS = 7 + len(run_buttons.LABELS)
"""Number of components that `refresh` fills."""
SEEN_PARTS = 6
"""Parts of `Live.seen`, of which the first is the run's id."""
MAX_FOLLOWED = 8
"""Runs whose end a page announces, besides the one that it shows."""
NOTIFY = '<label class="notify" hidden><input type="checkbox"> <span>Notify me when it ends</span></label>'


@dataclass
class Live:
    """The components of the live panel."""

    shown: gr.Textbox
    """Id of the run that was opened; empty: the newest active run, or else the newest run."""
    seen: gr.Textbox
    """What the page already shows, so that a refresh without news sends nothing. The browser keeps it rather than the
    server, so that a response that got lost is sent again."""
    status: gr.HTML
    announcer: gr.HTML
    """The tab's title, and the notification when the run ends."""
    chart: gr.HTML
    samples: gr.HTML
    figures: gr.HTML
    usage: gr.HTML
    """What the devices are doing."""
    buttons: RunButtons
    refresh: Callable[..., Any]

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        panel = [self.status, self.chart, self.samples, self.figures, self.announcer, self.usage]
        return [*panel, *self.buttons.outputs, self.seen]

    @property
    def compare(self) -> gr.Button:
        return self.buttons.buttons["compare"]

    @property
    def again(self) -> gr.Button:
        return self.buttons.buttons["again"]

    def refresh_after(self, event: Any) -> None:
        """Refresh the panel after an event."""
        event.then(self.refresh, [self.shown, self.seen], self.outputs, **DIRECT)


def build(lab: Lab) -> Live:
    """Build the live panel and start its timer."""
    shown = gr.Textbox("", label="Opened run", visible="hidden")
    seen = gr.Textbox("", label="What the page shows", visible="hidden")
    with gr.Column(elem_id="live-card", elem_classes="card"):
        with gr.Row(elem_id="live-top"):
            status = gr.HTML(run_progress.EMPTY, apply_default_css=False, elem_id="live-status")
            announcer = component("run_state.js", NOTIFY, "live-notify", runs="")
            buttons = RunButtons()
        losses = chart("loss-chart", "Loss curves of the run", visible=False)
        figures = gr.HTML("", apply_default_css=False, elem_id="live-figures")
        answers = samples.build()
        usage = device.build()

    live = Live(
        shown, seen, status, announcer, losses, answers, figures, usage, buttons,
        lambda *values: refresh(lab, *values),
    )  # fmt: skip
    gr.Timer(1).tick(live.refresh, [shown, seen, announcer], live.outputs, **DIRECT)
    _wire(lab, live)
    return live


def _wire(lab: Lab, live: Live) -> None:
    """Connect the buttons that act on the run itself."""
    named, epochs = live.buttons.buttons, live.buttons.epochs
    for name, action in (("stop", service.runs.stop), ("kill", service.runs.kill)):
        handler = show_errors(_on_displayed(lab, action))
        live.refresh_after(named[name].click(handler, live.seen, None, **QUEUED))
    for name, act in (
        ("resume", run_buttons.resume),
        ("longer", run_buttons.train_longer),
        ("first", run_buttons.put_first),
    ):
        handler = show_errors(_then_shown(lab, act))
        live.refresh_after(named[name].click(handler, [live.seen, epochs], live.shown, **QUEUED))
    download.wire(
        named["download"],
        lambda value, monitor: service.exports.adapter(lab, displayed(lab, value).id, monitor=monitor),
        live.seen,
        "live-file",
    )


def refresh(lab: Lab, shown: str | None, seen: str | None, followed: str | None = "") -> list[Any]:
    """Everything that has changed since `seen`; the rest is skipped. `followed`: runs whose ends are announced."""
    old = parts(seen, SEEN_PARTS)
    usage = device.content(lab)
    run = current(lab, shown or "")
    if run is None:
        return _nothing(usage, old)
    state = run.state
    wait = service.runs.wait_of(lab, run) if state == "queued" else None
    buttons = run_buttons.offered(run, state, is_next=wait is not None and wait.place == 1)
    status = run_progress.status(run, state, str(wait) if wait else _next(lab, run, state))
    announced = _announced(lab, run, state, followed)
    news = f"{run.history.version} {state}", f"{state} {' '.join(buttons)}", digest(status + announced), digest(usage)
    now = [run.id, *news, service.runs.samples_version(run)]
    if now == old:
        return [gr.skip()] * OUTPUTS
    other_run, new_steps, new_buttons, new_status, new_usage, new_samples = (
        new != before for new, before in zip(now, old, strict=True)
    )
    figure = service.runs.loss_figure(run.history, run.id) if other_run or new_steps else None
    return [
        status if new_status else gr.skip(),
        gr.update(figure=json.dumps(figure), visible=True) if figure is not None else gr.skip(),
        gr.update(samples=samples.content(run)) if other_run or new_samples else gr.skip(),
        run_progress.figures(run) if figure is not None else gr.skip(),
        gr.update(runs=announced) if new_status else gr.skip(),
        gr.update(usage=usage) if new_usage else gr.skip(),
        *(run_buttons.updates(buttons, state) if other_run or new_buttons else [gr.skip()] * len(run_buttons.LABELS)),
        "|".join(now),
    ]


def _next(lab: Lab, run: Run, state: str) -> str:
    """What the run waits for, or what can be done with it, as a sentence."""
    if state == "starting" and run.history.activity().task == service.runs.WAITING:
        return service.runs.holders(lab)
    return run_buttons.next_step(run, state)


def _announced(lab: Lab, run: Run, state: str, followed: str | None) -> str:
    """JSON for run_state.js: the run, and others whose end the page waits for."""
    runs = [run_progress.announcement(run, state)]
    for run_id in _ids(followed):
        if run_id != run.id:
            with contextlib.suppress(UserError):  # deleted in the meantime
                other = lab.store.get(run_id)
                runs.append(run_progress.announcement(other, other.state))
    return json.dumps(runs)


def _ids(text: str | None) -> list[str]:
    """The ids that run_state.js sends; none if they are invalid."""
    try:
        ids = json.loads(text or "[]")
    except (TypeError, ValueError, RecursionError):
        return []
    return [item for item in ids if isinstance(item, str)][-MAX_FOLLOWED:] if isinstance(ids, list) else []


def digest(content: str) -> str:
    """A short hash of a text, to compare it by."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def parts(seen: str | None, number: int) -> list[str]:
    """The parts of what the browser says it shows; all empty if that is invalid."""
    values = (seen or "").split("|")
    return values if len(values) == number else [""] * number


def _nothing(usage: str, old: list[str]) -> list[Any]:
    """The live panel without a run, of which only the devices change."""
    now = ["", "nothing", "", "", digest(usage), ""]
    if now == old:
        return [gr.skip()] * OUTPUTS
    devices = gr.update(usage=usage) if now[4] != old[4] else gr.skip()
    if now[:4] == old[:4]:
        return [*[gr.skip()] * 5, devices, *[gr.skip()] * len(run_buttons.LABELS), "|".join(now)]
    hidden, buttons = gr.update(visible=False), run_buttons.updates((), "")
    shown = [run_progress.EMPTY, hidden, gr.update(samples="{}"), "", gr.update(runs="[]"), devices]
    return [*shown, *buttons, "|".join(now)]


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


def _then_shown(lab: Lab, action: Callable[[Lab, Run, Any], str]) -> Callable[[str | None, Any], str]:
    """Like `_on_displayed`, with the number of epochs; returns the run's id, so that the page goes on showing it."""

    def act(seen: str | None, epochs: Any) -> str:
        run = displayed(lab, seen)
        inform(action(lab, run, epochs))
        return run.id

    return act
