"""What a training on the command line prints: a progress bar on a terminal, lines elsewhere, or JSON rows."""

from __future__ import annotations

import json
import sys
from typing import Any

from tqdm import tqdm

from trainer.events import Event


class Progress:
    """Called with every event of a run."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._bar: Any = None

    def __call__(self, event: Event) -> None:
        if self._as_json:
            print(json.dumps(event, ensure_ascii=False), flush=True)
        elif event["type"] == "metrics" and self._bar is not None:
            self._bar.set_postfix_str(f"loss {figure(event['loss'])}", refresh=False)
            self._bar.update(event["step"] - self._bar.n)
        elif line := _line(event):
            tqdm.write(line)
            sys.stdout.flush()
        if event["type"] == "state":
            self._follow(event)

    def _follow(self, event: Event) -> None:
        """The bar is there while the run takes steps, and only where a person looks at it."""
        if event["state"] == "running" and not self._as_json and sys.stdout.isatty():
            self._bar = tqdm(total=event["steps"], unit="step", dynamic_ncols=True)
        elif event["state"] != "running" and self._bar is not None:
            self._bar.close()
            self._bar = None


def figure(value: Any) -> str:
    """A loss with four digits behind the point."""
    return "–" if value is None else f"{value:.4f}"


def _line(event: Event) -> str:
    if event["type"] == "metrics":
        return f"step {event['step']:6}  loss {figure(event['loss'])}  lr {event['learning_rate']:.3g}"
    if event["type"] == "eval":
        return f"step {event['step']:6}  eval loss {figure(event['eval_loss'])}"
    if event["type"] == "log":
        return str(event["text"])
    if event["type"] == "state":
        return " ".join(str(event.get(key) or "") for key in ("state", "message")).strip()
    return ""
