"""The loss chart: numpy arrays, thinned so that a refresh stays small at any length of run."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from trainer.common.formatting import LOSS_DECIMALS
from trainer.service.experiments import smooth, thin
from trainer.service.runs import ENDED, History
from ui.theme import ACCENT_CHART, EVAL_CHART

GRID = "rgba(128, 140, 155, 0.18)"


def loss_figure(history: History, run_id: str) -> go.Figure:
    """Raw and smoothed train loss and the eval loss over the steps. None and NaN are gaps."""
    steps, losses = history.train.curve("loss")
    eval_steps, eval_losses = history.evals.curve("eval_loss")
    smoothed = smooth(losses, window(history.steps or len(losses)))
    figure = go.Figure()
    raw_x, raw_y = _small(*thin(steps, losses))
    smooth_x, smooth_y = _small(*thin(steps, smoothed))
    eval_x, eval_y = _small(*thin(eval_steps, eval_losses))
    figure.add_scatter(
        x=raw_x, y=raw_y, name="train loss", mode=_mode(raw_y), opacity=0.5,
        line={"width": 1, "color": ACCENT_CHART}, marker={"size": 4}, hovertemplate=f"%{{y:.{LOSS_DECIMALS}f}}",
    )  # fmt: skip
    figure.add_scatter(
        x=smooth_x, y=smooth_y, name="smoothed", mode=_mode(smooth_y),
        line={"width": 2.2, "color": ACCENT_CHART}, marker={"size": 4}, hovertemplate=f"%{{y:.{LOSS_DECIMALS}f}}",
    )  # fmt: skip
    figure.add_scatter(
        x=eval_x, y=eval_y, name="eval loss", mode="lines+markers",
        line={"width": 1.8, "color": EVAL_CHART}, marker={"size": 6}, hovertemplate=f"%{{y:.{LOSS_DECIMALS}f}}",
    )  # fmt: skip
    figure.update_layout(_layout(history, run_id))
    return figure


def window(steps: int) -> int:
    """Steps that the smoothed curve averages: a thirtieth of the run's, so it never shifts."""
    return int(np.clip(steps // 30, 5, 200))


def _small(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same in four bytes a number, half of what travels."""
    return x.astype(np.int32), y.astype(np.float32)


def _mode(values: np.ndarray) -> str:
    """A single point has no line."""
    return "lines" if np.isfinite(values).sum() > 1 else "markers"


def _layout(history: History, run_id: str) -> dict[str, Any]:
    shown = len(history.train) + len(history.evals) > 0
    axis = {"showticklabels": shown, "gridcolor": GRID, "zeroline": False, "automargin": True, "linecolor": GRID}
    x_axis = {**axis, "title": {"text": "step", "standoff": 6}, "tickformat": ",d", "rangemode": "tozero"}
    # always said: plotly keeps an old automatic range when a figure of the same run has none any more
    x_axis["range"] = [0, max(history.steps, history.step, 1)]
    return {
        "uirevision": run_id,
        "margin": {"l": 46, "r": 12, "t": 24, "b": 38},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#6b7787"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "rgba(22,27,34,0.92)", "font": {"color": "#f2f5f8"}, "bordercolor": GRID},
        "modebar": {
            "orientation": "h",
            "bgcolor": "rgba(0,0,0,0)",
            "remove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "toImage", "pan2d", "zoom2d"],
        },
        "xaxis": x_axis,
        "yaxis": {**axis, "title": {"text": "loss", "standoff": 6}},
        "annotations": [] if shown else [_hint(history)],
    }


def _hint(history: History) -> dict[str, Any]:
    text = "No step was taken." if history.state in ENDED else "The curve begins with the first step."
    return {"text": text, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
