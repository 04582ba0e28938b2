"""Charts of a run and of a comparison as plotly.js figures, for the page and for reports.

A figure is plain JSON, {"data": […], "layout": {…}}: the plotly package is not imported.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.common.formatting import LOSS_DECIMALS
from trainer.experiments import curves
from trainer.experiments.comparison import Comparison
from trainer.experiments.table import PRICES
from trainer.runs.history import ENDED, History
from trainer.runs.store import RunStore

COLORS = (
    "#14a394", "#d97706", "#6366f1", "#dc2626", "#0284c7", "#a16207", "#c026d3", "#65a30d", "#64748b", "#db2777",
)  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot")
GRID = "rgba(128, 140, 155, 0.18)"
MAX_POINTS = 6000
"""Points of all curves together, so that the size of a figure does not depend on the number of runs."""
MIN_CURVE_POINTS = 24
"""Points that each curve keeps in any case."""
CURVES = {"eval_loss": "Eval loss", "loss": "Training loss"}


def loss_figure(history: History, run_id: str) -> dict[str, Any]:
    """A run's raw and smoothed training loss and its eval loss by step. None and NaN are gaps."""
    steps, losses = history.train.curve("loss")
    smoothed = curves.smooth(losses, smoothing_window(history.steps or len(losses)))
    train, evaluation = COLORS[:2]
    data = [
        _loss_trace("train loss", steps, losses, {"width": 1, "color": train}) | {"opacity": 0.5},
        _loss_trace("smoothed", steps, smoothed, {"width": 2.2, "color": train}),
        _loss_trace("eval loss", *history.evals.curve("eval_loss"), {"width": 1.8, "color": evaluation})
        | {"mode": "lines+markers", "marker": {"size": 6}},
    ]
    shown = len(history.train) + len(history.evals) > 0
    figure = layout("step", "loss")
    figure |= {"uirevision": run_id, "hovermode": "x unified", "margin": figure["margin"] | {"t": 24}}
    # always set: otherwise plotly keeps the previous automatic range of the same run
    x_range = [0, max(history.steps, history.step, 1)]
    figure["xaxis"] |= {"tickformat": ",d", "range": x_range, "showticklabels": shown}
    figure["yaxis"] |= {"showticklabels": shown}
    if not shown:
        hint = "No step was taken." if history.state in ENDED else "The curve starts with the first step."
        figure["annotations"] = [
            {"text": hint, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
        ]
    return {"data": data, "layout": figure}


def smoothing_window(steps: int) -> int:
    """Steps that the smoothed curve averages over: a thirtieth of the whole run, so that it stays the same."""
    return int(np.clip(steps // 30, 5, 200))


def _loss_trace(name: str, steps: np.ndarray, losses: np.ndarray, line: dict[str, Any]) -> dict[str, Any]:
    x, y = curves.thin(steps, losses)
    return {
        "type": "scatter", "x": packed(x, np.int32), "y": packed(y, np.float32), "name": name, "line": line,
        "mode": "lines" if np.isfinite(y).sum() > 1 else "markers",  # a single point has no line
        "marker": {"size": 4}, "hovertemplate": f"%{{y:.{LOSS_DECIMALS}f}}",
    }  # fmt: skip


def packed(values: np.ndarray, kind: npt.DTypeLike) -> dict[str, str]:
    """Numbers in plotly.js's binary format, half the size of text."""
    array = np.asarray(values, np.dtype(kind).newbyteorder("<"))
    return {"dtype": f"{array.dtype.kind}{array.itemsize}", "bdata": base64.b64encode(array.tobytes()).decode()}


def curves_figure(
    store: RunStore, compared: Comparison, curve: str = "eval_loss", axis: str = "step", width: int = 1
) -> dict[str, Any]:
    """One of CURVES for every run, over one of `curves.AXES`; `width`: steps that training loss is averaged over.

    Runs of one group share a color and a legend entry.
    """
    points = max(MIN_CURVE_POINTS, MAX_POINTS // max(1, len(compared.rows)))
    data = []
    for number, group in enumerate(compared.groups):
        for place, row in enumerate(group.rows):
            x, y = curve_of(store, row.id, curve, axis, width, points)
            data.append({
                "type": "scatter", "uid": row.id, "x": x, "y": y, "name": group.name, "legendgroup": group.name,
                "showlegend": place == 0, "mode": "lines+markers" if curve == "eval_loss" else "lines",
                "line": {"width": 1.8, "color": COLORS[number % len(COLORS)], "dash": dash(number)},
                "marker": {"size": 5}, "opacity": 0.9 if len(group.rows) == 1 else 0.7,
                "hovertemplate": f"%{{y:.{LOSS_DECIMALS}f}}<extra>{plotly_text(row.title)}</extra>",
            })  # fmt: skip
    figure = layout(curves.AXES[axis], CURVES[curve].lower())
    figure |= {"uirevision": f"{curve} {axis}", "hovermode": "closest"}
    figure["xaxis"]["rangemode"] = "tozero"
    return {"data": _with_safe_names(data), "layout": figure}


def curve_of(
    store: RunStore, run_id: str, curve: str, axis: str, width: int, points: int
) -> tuple[list[float | None], list[float | None]]:
    """A run's curve as JSON numbers, thinned to about `points` points; gaps are None."""
    history = store.get(run_id).history
    steps, values = (history.evals if curve == "eval_loss" else history.train).curve(curve)
    if curve == "loss" and width > 1:
        values = curves.smooth(values, min(width, max(1, len(values) // 5)))  # so that short runs are not flattened
    x, y = curves.thin(curves.over(history, steps, axis), values, points)
    return _numbers(x), _numbers(y)


def price_figure(compared: Comparison, price: str) -> dict[str, Any]:
    """Mean final eval loss against one of PRICES, with the Pareto front."""
    means = {group.name: (group.mean(price), group.mean("eval_loss")) for group in compared.groups}
    data: list[dict[str, Any]] = []
    front = [means[name] for name in compared.front(price)]
    if len(front) > 1:
        data.append({
            "type": "scatter", "x": [point[0] for point in front], "y": [point[1] for point in front],
            "name": "Pareto front", "mode": "lines", "hoverinfo": "skip",
            "line": {"width": 1.2, "color": "#8894a3", "dash": "dot", "shape": "hv"},
        })  # fmt: skip
    for number, group in enumerate(compared.groups):
        x, y = means[group.name]
        if x is None or y is None:
            continue
        data.append({
            "type": "scatter", "uid": group.name, "x": [x], "y": [y], "name": group.name, "mode": "markers",
            "marker": {"size": 11, "color": COLORS[number % len(COLORS)], "symbol": _symbol(number)},
            "error_y": {"type": "data", "array": [group.spread("eval_loss") or 0], "thickness": 1, "width": 3},
            "hovertemplate": f"%{{x:.3s}}, %{{y:.{LOSS_DECIMALS}f}}<extra>{plotly_text(group.name)}</extra>",
        })  # fmt: skip
    unit = {"memory": ", bytes", "elapsed": ", s"}.get(price, "")
    figure = layout(PRICES[price].lower() + unit, "final eval loss")
    figure["uirevision"] = price
    figure["xaxis"]["tickformat"] = "~s"
    return {"data": _with_safe_names(data), "layout": figure}


def dash(number: int) -> str:
    """The line style, which changes once all colors are used."""
    return DASHES[number // len(COLORS) % len(DASHES)]


def plotly_text(text: str) -> str:
    """Text escaped for plotly, which interprets some HTML tags and %{…}."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")


def _with_safe_names(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [trace | {"name": plotly_text(trace["name"])} for trace in data]


def _symbol(number: int) -> str:
    return ("circle", "diamond", "square", "cross")[number // len(COLORS) % 4]


def _numbers(values: np.ndarray) -> list[float | None]:
    """Rounded to six significant digits, more than a screen shows."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def layout(x: str, y: str) -> dict[str, Any]:
    """The layout that all charts share, in light and dark; `x` and `y` are the axis titles."""
    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True, "linecolor": GRID}
    return {
        "margin": {"l": 46, "r": 12, "t": 12, "b": 38},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#6b7787"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        "hoverlabel": {"bgcolor": "rgba(22,27,34,0.92)", "font": {"color": "#f2f5f8"}, "bordercolor": GRID},
        "modebar": {"orientation": "h", "bgcolor": "rgba(0,0,0,0)"},
        "xaxis": {**axis, "title": {"text": x, "standoff": 6}},
        "yaxis": {**axis, "title": {"text": y, "standoff": 6}},
    }
