"""What each module of the chosen run earned: measured on demand, then a table by kind and a heatmap by layer."""

from __future__ import annotations

from typing import Any

import gradio as gr
from markupsafe import Markup

from trainer import service
from trainer.common import formatting
from trainer.service.attribution import Attribution, Measuring
from trainer.service.lab import Lab
from trainer.service.runs import ACTIVE, Run
from ui.views import HTML

render = HTML.macros("attribution.html")


class AttributionPanel:
    """Builds the fold, and what it shows of a run."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        with gr.Accordion(
            "What each module earned", open=False, elem_id="run-earned", elem_classes="card", visible=False
        ) as self.card:
            self._status = gr.HTML("", apply_default_css=False, elem_id="earned-status")
            with gr.Row():
                self.measure = gr.Button("Measure", size="sm", elem_id="earned-measure")
                self.stop = gr.Button("Stop measuring", size="sm", elem_id="earned-stop", visible=False)
            self._result = gr.HTML("", apply_default_css=False, elem_id="earned-result")

    @property
    def outputs(self) -> list[Any]:
        return [self.card, self._status, self.measure, self.stop, self._result]

    def hidden(self) -> list[Any]:
        """Updates of the outputs where no run is chosen."""
        return [gr.update(visible=False), *[gr.skip()] * (len(self.outputs) - 1)]

    def shown(self, run: Run) -> list[Any]:
        """Updates of the outputs for a run: nothing can be measured before it has ended with an adapter."""
        measuring, found = self._now(run)
        seconds = service.attribution.estimate(self._lab, run.id)
        label = "Measure again" if found else "Measure"
        can_measure = run.has_adapter and run.state not in ACTIVE and not run.problem
        return [
            gr.update(visible=can_measure),
            render("status", measuring, formatting.about(seconds) if seconds is not None else ""),
            gr.update(value=label, visible=not measuring.running),
            gr.update(visible=measuring.running),
            _result(found) if found else "",
        ]

    def stamp(self, run: Run) -> str:
        """Changes when there is something else to show."""
        measuring, found = self._now(run)
        return f"{measuring} {found.step if found else ''} {found.seconds if found else ''}"

    def _now(self, run: Run) -> tuple[Measuring, Attribution | None]:
        return service.attribution.state(self._lab, run.id), service.attribution.read(self._lab, run.id)


def _result(found: Attribution) -> Markup:
    kinds, layers, table = service.attribution.cells(found)
    most = max((abs(share) for row in table for share in row if share is not None), default=0.0) or 1.0
    cells = [[None if share is None else _cell(share, found.gain, most) for share in row] for row in table]
    heat = list(zip(layers, cells, service.attribution.by_layer(found), strict=True))
    return render("result", service.attribution.sentences(found), service.attribution.by_kind(found), kinds, heat)


def _cell(share: float, gain: float, most: float) -> dict[str, Any]:
    """A cell of the heatmap: its text, its sign, and how strong its color is, from 0 to 1."""
    text = service.attribution.share_text(share, share / gain if gain > 0 else None)
    return {"text": text, "strength": f"{abs(share) / most:.3f}", "negative": share < 0}
