"""The samples under the loss chart: held-out prompts, and what the model answered at each evaluation."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from trainer import service
from trainer.service.runs import Run
from ui.components import component

TEMPLATE = (
    '<section class="samples" aria-labelledby="samples-title" hidden><div class="samples-head">'
    '<h3 id="samples-title">Samples</h3><output aria-live="polite"></output>'
    '<button type="button" class="earlier" aria-label="Earlier evaluation">‹</button>'
    '<button type="button" class="later" aria-label="Later evaluation">›</button></div>'
    '<ol class="prompts"></ol></section>'
)
MAX_EVALUATIONS = 12
"""Evaluations that the page gets; of more, the first, the last and some between."""
MAX_TEXT = 1000
"""Characters of a text that the page gets."""


def build() -> gr.HTML:
    """The component; its prop `samples` is what `content` returns."""
    return component("samples.js", TEMPLATE, "live-samples", label="Samples", samples="{}")


def content(run: Run) -> str:
    """JSON for samples.js."""
    everything = service.runs.samples(run)
    found = everything.thinned(MAX_EVALUATIONS)
    left_out = len(everything.answers) - len(found.answers)
    shown = _shortened(found.to_json())
    return json.dumps(
        {
            "run": run.id,
            "note": f" shown, of {len(everything.answers):,}" if left_out else "",
            "prompts": shown["prompts"],
            "evaluations": shown["answers"],
        }
    )


def _shortened(value: Any) -> Any:
    """JSON whose texts are at most MAX_TEXT long."""
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(item) for item in value]
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return value[: MAX_TEXT - 1] + "…"
    return value
