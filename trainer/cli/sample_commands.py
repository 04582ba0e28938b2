"""The command `samples`: what a run answered to held-out prompts while it trained."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from trainer.cli.output import show, show_json
from trainer.service import runs


def add_command(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add("samples", _samples, "show what a run answered to held-out prompts at each evaluation")
    command.add_argument("run")
    command.add_argument("--json", action="store_true")


def _samples(options: argparse.Namespace) -> int:
    found = runs.samples(options.lab.store.get(options.run))
    if options.json:
        show_json(found.to_json())
        return 0
    if not found.answers:
        show("This run has no samples.")
    for number, prompt in enumerate(found.prompts if found.answers else ()):
        show(f"Prompt {number + 1}: {prompt.text}", f"  reference: {prompt.reference}")
        for at in found.answers:
            answer = at.answers[number]
            show(f"  step {at.step:6}: {answer.text}{'' if answer.ended else ' …'}")
    return 0
