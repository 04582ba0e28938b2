"""The histogram of lengths: max_length is a line, and truncated lengths have another color."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.service.experiments import COLORS, layout, packed

BELOW, ABOVE = COLORS[:2]
"""Colors of lengths within max_length, and of lengths that are truncated."""


def lengths_figure(tokens: Mapping[str, Any]) -> dict[str, Any]:
    """Examples by length in tokens. `tokens`: that part of the data report."""
    edges, counts = np.array(tokens["histogram"]["edges"]), np.array(tokens["histogram"]["counts"])
    longest, max_length = tokens["quantiles"]["most"], tokens["max_length"]
    names = [f"{first}–{last - 1} tokens" for first, last in itertools.pairwise(edges)]
    if longest >= edges[-1]:
        names[-1] = f"{edges[-2]}–{longest} tokens"
    bars = {
        "type": "bar", "x": packed((edges[:-1] + edges[1:]) / 2, np.float32), "y": packed(counts, np.int32),
        "width": int(edges[1]), "customdata": names,
        "marker": {"color": [BELOW if edge < max_length else ABOVE for edge in edges[:-1]], "line": {"width": 0}},
        "hovertemplate": "%{customdata}: %{y:,} examples<extra></extra>",
    }  # fmt: skip
    right = int(max(edges[-1], max_length * 1.02)) if max_length <= 2 * edges[-1] else int(edges[-1])
    figure = layout("tokens of an example", "examples")
    figure |= {"bargap": 0.08, "showlegend": False, "margin": figure["margin"] | {"t": 26}}
    figure["xaxis"] |= {"tickformat": ",d", "range": [0, right]}
    figure["yaxis"] |= {"tickformat": ",d", "rangemode": "tozero"} | ({"dtick": 1} if counts.max() < 5 else {})
    if max_length <= right:
        figure["shapes"] = [
            {"type": "line", "x0": max_length, "x1": max_length, "y0": 0, "y1": 1, "yref": "y domain",
             "line": {"color": ABOVE, "width": 2, "dash": "dash"}}
        ]  # fmt: skip
    longer = f"{tokens['longer']:,} are longer than" if tokens["longer"] else "none is longer than"
    figure["annotations"] = [
        {"text": f"{longer} {max_length}", "showarrow": False, "xref": "paper", "yref": "paper", "x": 0, "y": 1.0,
         "xanchor": "left", "yanchor": "bottom"}
    ]  # fmt: skip
    return {"data": [bars], "layout": figure}
