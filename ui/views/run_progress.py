"""A run as the page shows it: name and state, progress, latest figures, the end of the log."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from trainer.common import formatting
from trainer.service.runs import ACTIVE, Activity, History, Run, describe_ticks
from ui.views import HTML

SENTENCES = {
    "stopping": "Finishing the current step and saving a checkpoint. Stop now ends it without saving.",
    "interrupted": "Its process ended without a word, as when the machine restarts.",
    "stopped": "Stopped.",
    "finished": "Finished. The adapter is ready.",
}
KILL = "Kill it, then resume it from its newest checkpoint."
LOG_LINES = 60

render = HTML.macros("run_progress.html")
EMPTY = render("nothing")


def status(run: Run, state: str, next_step: str = "") -> Markup:
    """The run's name, state, ticks and progress. `next_step`: what can be done with it, as a sentence."""
    history, silent = run.history, run.history.silence() is not None
    early = state == "stopping" and not history.step
    said = run.message or ("Stopping." if early else SENTENCES.get(state))
    message = " ".join(filter(None, (said, KILL if silent else "", next_step)))
    facts = (run.config.model.name, describe_ticks(run.config)) if run.config else ()
    if state == "starting" and not silent:
        downloaded = history.download
        is_downloading = downloaded and downloaded["bytes"] < downloaded["total"]
        progress = _download(downloaded) if is_downloading else _task(history.activity(), message)
    else:
        progress = _steps(history, state, message, silent)
    return render("status", run.title, state, " · ".join(filter(None, facts)), progress)


def announcement(run: Run, state: str) -> dict[str, Any]:
    """The run for the tab's title and for the notification when it ends."""
    history, is_open = run.history, state in ("queued", *ACTIVE)
    trained = f"Eval loss {formatting.loss(history.latest['eval_loss'])}. " if "eval_loss" in history.latest else ""
    took = f"Trained for {formatting.duration(history.elapsed())}." if history.elapsed() else ""
    share = f"{int(100 * history.step / history.steps)} %" if state == "running" and history.steps else state
    return {
        "id": run.id,
        "name": run.title,
        "state": state,
        "open": is_open,
        "progress": share,
        "result": "" if is_open else run.message[:200] if state == "failed" else trained + took,
    }


def _steps(history: History, state: str, message: str, silent: bool) -> dict[str, Any]:
    """Progress of the training."""
    elapsed = history.elapsed()
    if state == "running" and history.latest.get("time"):
        elapsed += history.idle()
    left = history.remaining() if state == "running" and not silent else None
    return {
        "label": "Steps",
        "now": history.step,
        "most": history.steps,
        "share": min(history.step / history.steps, 1.0) if history.steps else 0.0,
        "kind": f" {state}{' busy' if state in ('starting', 'stopping') else ''}",
        "notes": (
            f"step {history.step:,} of {history.steps:,}" if history.steps else "no step yet",
            _meanwhile(history, state),
            f"elapsed {formatting.duration(elapsed)}" if elapsed else "",
            f"about {formatting.duration(left)} left" if left is not None else "",
        ),
        "message": message,
        "message_kind": "silent" if silent else "unchanged" if history.unchanged else state,
    }


def _meanwhile(history: History, state: str) -> str:
    """What a training run does between its steps: `evaluating, 40 %`."""
    if state not in ("running", "stopping"):
        return ""
    task, share = history.activity()
    if not task:
        return "computing the first step" if not history.step else ""
    return task.lower() + (f", {100 * share:.0f} %" if share is not None else "")


def _task(activity: Activity, message: str) -> dict[str, Any]:
    """Progress of what a run does before its first step."""
    share = activity.share
    return {
        "label": activity.task or "Starting",
        "now": f"{100 * (share or 0):.0f}",
        "most": 100,
        "share": share or 0.0,
        "kind": " starting" if share else " starting busy",
        "notes": (activity.task or "Starting", f"{100 * share:.0f} %" if share is not None else ""),
        "message": message,
        "message_kind": "starting",
    }


def _download(done: dict[str, float]) -> dict[str, Any]:
    """Progress of a hub download: files, bytes, speed, time left."""
    share = done["bytes"] / done["total"]
    left = (done["total"] - done["bytes"]) / done["speed"] if done["speed"] else None
    return {
        "label": "Download",
        "now": f"{share * 100:.0f}",
        "most": 100,
        "share": share,
        "kind": " starting",
        "notes": (
            f"{formatting.size(done['bytes'])} of {formatting.size(done['total'])}",
            f"{done['files']:,.0f} of {done['of']:,.0f} files",
            f"{formatting.size(done['speed'])}/s" if done["speed"] else "waiting for the hub",
            f"about {formatting.duration(left)} left" if left is not None else "",
        ),
        "message": "Downloading the model, once.",
        "message_kind": "starting",
    }


def figures(run: Run) -> Markup:
    """The latest figures and the end of the log."""
    history, latest = run.history, run.history.latest
    predicted = run.plan().get("memory_predicted")
    has_quality = latest.get("perplexity") is not None and latest.get("eval_accuracy") is not None
    quality = (
        f"Perplexity {formatting.decimals(latest['perplexity'])}, "
        f"token accuracy {formatting.percent(latest['eval_accuracy'])}"
        if has_quality
        else ""
    )
    planned = f"of ≈ {formatting.size(predicted)}" if predicted else ""
    best = f"best {formatting.loss(history.best_eval_loss)}" if history.best_eval_loss is not None else ""
    router = latest.get("router_loss")
    balance = f"router loss {formatting.loss(router)}, not included" if router is not None else ""
    items = (
        ("Train loss", formatting.loss(latest.get("loss")), "", balance),
        ("Eval loss", formatting.loss(latest.get("eval_loss")), best, quality),
        ("Learning rate", formatting.learning_rate(latest.get("learning_rate")), "", ""),
        ("Gradient norm", formatting.decimals(latest.get("grad_norm")), "", ""),
        ("Tokens/s", formatting.count(latest.get("tokens_per_second")), "", ""),
        ("Memory", formatting.size(latest.get("memory")), planned, ""),
    )
    return render("figures", items, history.log[-LOG_LINES:])
