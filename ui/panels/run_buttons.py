"""What can be done next with the run of the live panel: one row of buttons, the primary one first."""

from __future__ import annotations

from typing import Any

import gradio as gr

from trainer import service
from trainer.service.lab import Lab
from trainer.service.runs import ACTIVE, Run

LABELS = {
    "resume": "Resume",
    "first": "Put first",
    "stop": "Stop",
    "kill": "Kill",
    "download": "Download adapter",
    "longer": "Train longer",
    "compare": "Compare",
    "again": "New run like this",
}
IDS = {"stop": "stop", "kill": "kill", "download": "download"}
PRIMARY = ("resume", "download", "again")
"""Buttons that are emphasized where they come first."""
NEEDS_OTHER_SETTINGS = ("oom", "nonfinite")
"""Causes of failures that would most likely come back with the same settings."""


class RunButtons:
    """The components, hidden until `updates` shows those that fit the run."""

    def __init__(self) -> None:
        self.buttons: dict[str, gr.Button] = {}
        with gr.Row(elem_id="live-buttons"):
            for name in LABELS:
                if name == "longer":
                    with gr.Row(visible=False, elem_id="live-more") as self.more:
                        self._add(name, visible=True)
                        self.epochs = gr.Number(1, label="epochs", minimum=0, min_width=0, elem_id="live-epochs")
                else:
                    self._add(name)

    def _add(self, name: str, visible: bool = False) -> None:
        element = IDS.get(name, f"live-{name}")
        self.buttons[name] = gr.Button(LABELS[name], size="sm", visible=visible, elem_id=element)

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        return [self.more if name == "longer" else button for name, button in self.buttons.items()]


def updates(names: tuple[str, ...], state: str) -> list[Any]:
    """Updates of `RunButtons.outputs` that show these buttons; the first one is the primary one."""
    labels = LABELS | {"stop": {"queued": "Remove from queue", "stopping": "Stop now"}.get(state, "Stop")}
    primary = names[0] if names and names[0] in PRIMARY else ""
    return [
        gr.update(visible="longer" in names)
        if name == "longer"
        else gr.update(
            visible=name in names,
            value=label,
            variant="stop" if name == "kill" else "primary" if name == primary else "secondary",
        )
        for name, label in labels.items()
    ]


def offered(run: Run, state: str, is_next: bool = False) -> tuple[str, ...]:
    """Names of the buttons that make sense for a run in this state. `is_next`: it is the first of the queue."""
    again = ("again",) if run.config is not None else ()
    compare = ("compare",) if run.history.step else ()
    if state == "queued":
        return (*(() if is_next else ("first",)), "stop", *again)
    saved = ("download",) if run.has_adapter else ()
    if state in ACTIVE:
        kill = ("kill",) if run.history.silence() is not None else ()
        return (*kill, "stop", *saved, *compare, *again)
    if run.problem:  # of its folder, so that no worker could take it
        return (*saved, *again)
    if state == "finished":
        return (*saved, "longer", *compare, *again)
    longer = ("longer",) if state == "stopped" and run.history.step else ()
    if state == "failed" and run.history.cause in NEEDS_OTHER_SETTINGS:
        return (*again, *(("resume",) if run.history.cause == "oom" else ()), *saved, *compare)
    return ("resume", *saved, *longer, *compare, *again)


def next_step(run: Run, state: str) -> str:
    """What the offered buttons do for a run that ended early, as a sentence."""
    if run.problem or state in ("finished", "queued", *ACTIVE):
        return ""
    names = offered(run, state)
    if not {"again", "resume"} & {*names[:1]}:
        return ""
    if names[0] == "again":
        return "Change the settings in a new run like this."
    return f"Resume {_resumes(run)}."


def _resumes(run: Run) -> str:
    step = run.resumes_at
    return f"continues from step {step:,}" if step else "starts from the beginning"


def resume(lab: Lab, run: Run, _: object) -> str:
    """Queue the run again. Returns what was done."""
    service.runs.resume(lab, run.id)
    return f"Queued again: it {_resumes(run)}."


def train_longer(lab: Lab, run: Run, epochs: object) -> str:
    """Queue the run again for more epochs. Returns what was done."""
    service.runs.train_longer(lab, run.id, epochs)
    return f"Queued for {epochs:g} more {'epoch' if epochs == 1 else 'epochs'}."


def put_first(lab: Lab, run: Run, _: object) -> str:
    """Put the queued run at the front of the queue. Returns what was done."""
    service.runs.put_first(lab, run.id)
    return "It starts as soon as a device is free."
