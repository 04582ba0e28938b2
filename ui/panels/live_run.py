"""The live side: one run, followed by a timer that reads its folder. Reloads and tabs see the same."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from trainer import service
from trainer.common import formatting
from trainer.common.errors import UserError
from trainer.service.lab import Lab
from trainer.service.runs import ACTIVE, History, Run, describe_ticks
from ui import download
from ui.components import chart
from ui.handlers import DIRECT, QUEUED, told
from ui.views import text

SENTENCES = {
    "queued": "Waits for its turn: another run has the device.",
    "starting": "The worker starts and loads the model.",
    "stopping": "Finishes its step and saves. Stop again to end it at once.",
    "interrupted": "Its worker is gone. What it saved is kept; the Runs tab can resume it.",
    "stopped": "Stopped. What it saved can be downloaded.",
    "finished": "Finished. The adapter is ready.",
}
EMPTY = (
    '<div class="empty"><strong>No run yet</strong><span>Tick the modules to train and press '
    "<em>Train</em>. Its loss appears here, step by step.</span></div>"
)
LOG_LINES = 60
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
            status = gr.HTML(EMPTY, apply_default_css=False, elem_id="live-status")
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
    status = _status(run, state)
    now = [run.id, f"{run.history.version} {state}", f"{state} {has_adapter}", digest(status)]
    old = parts(seen, FACTS)
    if now == old:
        return [gr.skip()] * 6
    other, drawn, buttons, told_status = (new != before for new, before in zip(now, old, strict=True))
    figure = service.runs.loss_figure(run.history, run.id) if other or drawn else None
    return [
        status if told_status else gr.skip(),
        gr.update(figure=json.dumps(figure), visible=True) if figure is not None else gr.skip(),
        _figures(run) if figure is not None else gr.skip(),
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
    return [EMPTY, hidden, "", hidden, hidden, ""]


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
    gr.Info(text.escape(service.runs.stop(lab, displayed(lab, seen).id)), duration=5)


def _stop_button(state: str) -> Any:
    title = "Stop now" if state == "stopping" else "Stop"
    return gr.update(value=title, visible=state in ("queued", *ACTIVE))


def _state(run: Run) -> str:
    return "failed" if run.problem else run.history.state


def _status(run: Run, state: str) -> str:
    history = run.history
    message = history.message or run.problem or SENTENCES.get(state, "")
    facts = " · ".join(filter(None, (run.config.model.name, describe_ticks(run.config)))) if run.config else ""
    return (
        f'<div class="live-head"><h2 title="{text.escape(run.title)}">{text.escape(run.title)}</h2>'
        f'<span class="pill {text.escape(state)}">{text.escape(state)}</span></div>'
        f'<p class="facts" title="{text.escape(facts)}">{text.escape(facts)}</p>'
        f"{_progress(history, state, message)}"
    )


def _progress(history: History, state: str, message: str) -> str:
    if state == "starting" and (done := history.download) and done["bytes"] < done["total"]:
        return _download(done)
    share = min(history.step / history.steps, 1.0) if history.steps else 0.0
    steps = f"step {history.step:,} of {history.steps:,}" if history.steps else "no step yet"
    elapsed = history.elapsed()
    if state == "running" and history.latest.get("time"):
        elapsed += max(0.0, time.time() - history.latest["time"])
    left = history.remaining() if state == "running" else None
    times = f"<span>elapsed {formatting.duration(elapsed)}</span>" if elapsed else ""
    times += f"<span>about {formatting.duration(left)} left</span>" if left is not None else ""
    kind = "unchanged" if history.unchanged else state
    times += f'<span class="message {text.escape(kind)}">{text.escape(message)}</span>' if message else ""
    busy = " busy" if state in ("starting", "stopping") else ""
    return (
        f'<div class="progress {text.escape(state)}{busy}" role="progressbar" aria-label="Steps" aria-valuemin="0" '
        f'aria-valuemax="{history.steps}" aria-valuenow="{history.step}">'
        f'<i style="width:{share * 100:.2f}%"></i></div>'
        f'<div class="progress-text"><span>{steps}</span>{times}</div>'
    )


def _download(done: dict[str, float]) -> str:
    """How far the download of a hub model is: files, bytes, speed, time left."""
    share = done["bytes"] / done["total"]
    left = formatting.duration((done["total"] - done["bytes"]) / done["speed"]) if done["speed"] else ""
    parts = (
        f"{formatting.size(done['bytes'])} of {formatting.size(done['total'])}",
        f"{done['files']:,.0f} of {done['of']:,.0f} files",
        f"{formatting.size(done['speed'])}/s" if done["speed"] else "waiting for the hub",
        f"about {left} left" if left else "",
    )
    cells = "".join(f"<span>{part}</span>" for part in parts if part)
    return (
        f'<div class="progress starting" role="progressbar" aria-label="Download" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{share * 100:.0f}"><i style="width:{share * 100:.2f}%"></i></div>'
        f'<div class="progress-text">{cells}<span class="message starting">Downloads the model, once.</span></div>'
    )


def _figures(run: Run) -> str:
    history, latest = run.history, run.history.latest
    predicted = run.plan().get("memory_predicted")
    known = latest.get("perplexity") is not None and latest.get("eval_accuracy") is not None
    quality = (
        f"Perplexity {formatting.decimals(latest['perplexity'])}, "
        f"{formatting.percent(latest['eval_accuracy'])} of the tokens right"
        if known
        else ""
    )
    planned = f"of ≈ {formatting.size(predicted)}" if predicted else ""
    best = f"best {formatting.loss(history.best_eval_loss)}" if history.best_eval_loss is not None else ""
    items = (
        ("Train loss", formatting.loss(latest.get("loss")), "", ""),
        ("Eval loss", formatting.loss(latest.get("eval_loss")), best, quality),
        ("Learning rate", formatting.learning_rate(latest.get("learning_rate")), "", ""),
        ("Gradient norm", formatting.decimals(latest.get("grad_norm")), "", ""),
        ("Tokens/s", formatting.count(latest.get("tokens_per_second")), "", ""),
        ("Memory", formatting.size(latest.get("memory")), planned, ""),
    )
    cells = "".join(
        f"<div title='{title}'><dt>{name}</dt><dd>{value}</dd><dd class='more'>{more}</dd></div>"
        for name, value, more, title in items
    )
    lines = "".join(f"<div>{text.escape(line)}</div>" for line in history.log[-LOG_LINES:])
    log = lines or '<div class="quiet">The log of the run appears here.</div>'
    box = f'<div class="log" role="log" aria-label="Log" tabindex="0"><div>{log}</div></div>'
    return f'<dl class="tiles">{cells}</dl>{box}'
