"""What each module of the chosen run earned, and its adapter with lower ranks: both measured on demand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from trainer import service
from trainer.common import formatting
from trainer.common.errors import UserError
from trainer.common.progress import ProgressMonitor
from trainer.service.attribution import ATTRIBUTION, CUT_DOWN, Attribution, CutDown, Measuring
from trainer.service.lab import Lab
from trainer.service.runs import ACTIVE, Run
from ui import download
from ui.handlers import QUEUED, inform, show_errors
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
                self._measure = gr.Button("Measure", size="sm", elem_id="earned-measure")
                self._cut = gr.Button("Cut down", size="sm", elem_id="earned-cut")
                self._stop = gr.Button("Stop measuring", size="sm", elem_id="earned-stop", visible=False)
            self._result = gr.HTML("", apply_default_css=False, elem_id="earned-result")
            with gr.Row(visible=False) as self._again:
                self._without = gr.CheckboxGroup([], label="Leave out", elem_id="earned-without")
                self._retrain = gr.Button("Train again without these", size="sm", elem_id="earned-retrain")
                self.compare = gr.Button("Compare with it", size="sm", elem_id="earned-compare", visible=False)
            self._levels = gr.HTML("", apply_default_css=False, elem_id="cut-result")
            with gr.Row(visible=False) as self._export:
                self._level = gr.Dropdown([], label="Energy to keep", elem_id="cut-level")
                self._fetch = gr.Button("Download it cut down", size="sm", elem_id="cut-download")

    @property
    def outputs(self) -> list[Any]:
        shown = [self.card, self._status, self._measure, self._cut, self._stop, self._result]
        return [*shown, self._again, self._without, self.compare, self._levels, self._export, self._level]

    def wire(self, chosen: Any, after: Callable[[Any], None]) -> None:
        """`chosen`: its value is the run's id. `after`: shows what has changed after an event."""
        after(self._measure.click(show_errors(lambda run: self._start(ATTRIBUTION, run)), chosen, None, **QUEUED))
        after(self._cut.click(show_errors(lambda run: self._start(CUT_DOWN, run)), chosen, None, **QUEUED))
        after(
            self._stop.click(
                show_errors(lambda run: service.attribution.stop(self._lab, str(run))), chosen, None, **QUEUED
            )
        )
        after(self._retrain.click(show_errors(self._train_again), [chosen, self._without], None, **QUEUED))
        download.wire(self._fetch, self._exported, self._level, "cut-file")

    def hidden(self) -> list[Any]:
        """Updates of the outputs where no run is chosen."""
        return [gr.update(visible=False), *[gr.skip()] * (len(self.outputs) - 1)]

    def shown(self, run: Run) -> list[Any]:
        """Updates of the outputs for a run: nothing can be measured before it has ended with an adapter."""
        measuring, found, cuts = self._now(run)
        seconds = service.attribution.estimate(self._lab, run.id)
        return [
            gr.update(visible=run.has_adapter and run.state not in ACTIVE and not run.problem),
            render("status", measuring, formatting.about(seconds) if seconds is not None else ""),
            gr.update(value="Measure again" if found else "Measure", visible=not measuring.running),
            gr.update(visible=not measuring.running),
            gr.update(visible=measuring.running),
            _result(found) if found else "",
            gr.update(visible=found is not None),
            gr.update(choices=_kinds(found)) if found else gr.skip(),
            gr.update(visible=service.retraining.retrained_run(self._lab, run.id) is not None),
            _levels(cuts) if cuts else "",
            gr.update(visible=cuts is not None),
            gr.update(**_choices(run, cuts)) if cuts else gr.skip(),
        ]

    def stamp(self, run: Run) -> str:
        """Changes when there is something else to show."""
        measuring, found, cuts = self._now(run)
        again = service.retraining.retrained_run(self._lab, run.id)
        earned, cut = found and (found.step, found.seconds), cuts and (cuts.step, cuts.parameters)
        return f"{again and again.id} {measuring} {earned} {cut}"

    def _now(self, run: Run) -> tuple[Measuring, Attribution | None, CutDown | None]:
        found = service.attribution
        return found.state(self._lab, run.id), found.read(self._lab, run.id), found.read_cut_down(self._lab, run.id)

    def _start(self, task: str, run_id: str | None) -> None:
        service.attribution.start(self._lab, task, str(run_id))

    def _train_again(self, run_id: str | None, names: list[str]) -> None:
        if not names:
            raise UserError("No kind is ticked.", "Tick those to leave out.", "data")
        run = service.retraining.train_without(self._lab, str(run_id), names)
        inform(f"“{run.title}” is queued, with the parameters of what it leaves out in the other ranks.")

    def _exported(self, value: str, monitor: ProgressMonitor) -> Path:
        run_id, _, kept = str(value).partition(" ")
        try:
            share = float(kept)
        except ValueError:
            raise UserError("No energy to keep is chosen.", "Choose one.", "data") from None
        return service.attribution.export_cut(self._lab, run_id, share, monitor=monitor)


def _kinds(found: Attribution) -> list[str]:
    """Kinds that can be left out: new tokens come with the vocabulary."""
    return [row.name for row in service.attribution.by_kind(found) if row.treatment != "rows"]


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


def _levels(cuts: CutDown) -> Markup:
    return render("cut_down", service.attribution.cut_sentences(cuts), service.attribution.levels(cuts))


def _choices(run: Run, cuts: CutDown) -> dict[str, Any]:
    """The levels that can be exported; values are what `_exported` reads."""
    shown = [
        (f"{formatting.percent(level.kept)}: loss {formatting.loss(level.loss)}", f"{run.id} {level.kept}")
        for level in service.attribution.levels(cuts)[1:]
    ]
    return {"choices": shown, "value": shown[0][1]}
