"""Progress of a training on the command line: a progress bar on a terminal, lines elsewhere, or JSON rows."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from trainer.cli.output import show, show_json
from trainer.common.formatting import learning_rate, loss, size
from trainer.service.runs import Event


class Progress:
    """Called with every event of a run."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._bar: Any = None
        self._tenth = 0
        """Tenths of a download that have been reported."""

    def __call__(self, event: Event) -> None:
        if self._as_json:
            show_json(event, indent=None)
        elif event["type"] == "download":
            self._download(event)
        elif event["type"] == "metrics" and self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss(event['loss'])}", refresh=False)
            self._bar.update(event["step"] - self._bar.n)
        elif line := _line(event):
            show(line)
        if event["type"] == "state":
            self._follow(event)

    def _download(self, event: Event) -> None:
        """A progress bar on a terminal, a line for every tenth elsewhere."""
        tenth = 10 * event["bytes"] // max(event["total"], 1)
        if sys.stdout.isatty():
            if self._bar is None:
                self._bar = tqdm(total=event["total"], unit="B", unit_scale=True, dynamic_ncols=True)
            self._bar.set_postfix_str(f"{event['files']} of {event['of']} files", refresh=False)
            self._bar.update(event["bytes"] - self._bar.n)
        elif tenth > self._tenth:
            self._tenth = tenth
            show(f"downloaded {size(event['bytes'])} of {size(event['total'])}, {size(event['speed'])}/s")
        if event["bytes"] >= event["total"] and self._bar is not None:
            self._bar.close()
            self._bar = None

    def _follow(self, event: Event) -> None:
        """Show the bar while the run takes steps, and only on a terminal."""
        if event["state"] == "running" and not self._as_json and sys.stdout.isatty():
            self._bar = tqdm(total=event["steps"], unit="step", dynamic_ncols=True)
        elif event["state"] != "running" and self._bar is not None:
            self._bar.close()
            self._bar = None


def _line(event: Event) -> str:
    if event["type"] == "metrics":
        return f"step {event['step']:6}  loss {loss(event['loss'])}  lr {learning_rate(event['learning_rate'])}"
    if event["type"] == "eval":
        return f"step {event['step']:6}  eval loss {loss(event['eval_loss'])}"
    if event["type"] == "log":
        return str(event["text"])
    if event["type"] == "state":
        return " ".join(str(event.get(key) or "") for key in ("state", "message")).strip()
    return ""
