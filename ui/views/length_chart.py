"""The histogram of lengths, with the maximum length as a line and what it cuts in another colour."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ui.theme import ACCENT_CHART, EVAL_CHART
from ui.views.loss_chart import GRID


def lengths_figure(tokens: Mapping[str, Any]) -> go.Figure:
    """Examples by their length in tokens. `tokens`: that part of the report on the data."""
    edges, counts = np.array(tokens["histogram"]["edges"]), np.array(tokens["histogram"]["counts"])
    longest, max_length = tokens["quantiles"]["most"], tokens["max_length"]
    colours = [ACCENT_CHART if edge < max_length else EVAL_CHART for edge in edges[:-1]]
    names = [f"{first}–{last - 1} tokens" for first, last in itertools.pairwise(edges)]
    if longest >= edges[-1]:
        names[-1] = f"{edges[-2]}–{longest} tokens"
    figure = go.Figure()
    figure.add_bar(
        x=((edges[:-1] + edges[1:]) / 2).astype(np.float32), y=counts.astype(np.int32), width=int(edges[1]),
        marker={"color": colours, "line": {"width": 0}}, customdata=names,
        hovertemplate="%{customdata}: %{y:,} examples<extra></extra>",
    )  # fmt: skip
    right = int(max(edges[-1], max_length * 1.02)) if max_length <= 2 * edges[-1] else int(edges[-1])
    if max_length <= right:
        figure.add_vline(x=max_length, line={"color": EVAL_CHART, "width": 2, "dash": "dash"})
    note = (
        f"{tokens['longer']:,} are longer than {max_length}"
        if tokens["longer"]
        else f"none is longer than {max_length}"
    )
    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True, "linecolor": GRID, "tickformat": ",d"}
    figure.update_layout(
        margin={"l": 46, "r": 12, "t": 26, "b": 38},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#6b7787"},
        bargap=0.08,
        showlegend=False,
        hoverlabel={"bgcolor": "rgba(22,27,34,0.92)", "font": {"color": "#f2f5f8"}, "bordercolor": GRID},
        modebar={"bgcolor": "rgba(0,0,0,0)", "remove": ["select2d", "lasso2d", "autoScale2d", "toImage", "pan2d"]},
        xaxis={**axis, "title": {"text": "tokens of an example", "standoff": 6}, "range": [0, right]},
        yaxis={**axis, "title": {"text": "examples", "standoff": 6}, "rangemode": "tozero",
               **({"dtick": 1} if counts.max() < 5 else {})},
        annotations=[
            {"text": note, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0, "y": 1.0, "xanchor": "left",
             "yanchor": "bottom"}
        ],
    )  # fmt: skip
    return figure
