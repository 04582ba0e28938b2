"""The report as one HTML file: nothing is fetched, plotly.js lies in it, and it opens without a network.

plotly.js comes from the plotly package as text. The package itself is never imported here, and need not be: a chart
is JSON that plotly.js reads.
"""

from __future__ import annotations

import html
import json
import re
import secrets
import zipfile
from importlib.metadata import distribution
from pathlib import Path

from trainer.common import atomic
from trainer.common.errors import UserError
from trainer.common.redaction import redact
from trainer.experiments import charts, curves
from trainer.experiments.comparison import PRICES, Comparison
from trainer.experiments.experiment import Experiment
from trainer.experiments.report import (
    CURVES_BLOCK,
    Block,
    Bullets,
    Code,
    Figure,
    Heading,
    Table,
    Text,
    document,
    markdown,
)
from trainer.runs.store import RunStore

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
SMOOTHING = 15
"""Steps that training loss is averaged over in the report."""
STYLE = """
:root { color-scheme: light dark; --line: #8894a355; --quiet: #6b7787; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 24px auto; padding: 0 16px; }
h1 { font-size: 24px; } h2 { font-size: 19px; margin-top: 32px; } h3 { font-size: 15.5px; margin-bottom: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--quiet); font-weight: 600; }
td:first-child { min-width: 9em; }
.number { text-align: right; white-space: nowrap; }
pre { font-size: 12px; overflow-x: auto; padding: 10px; border: 1px solid var(--line); border-radius: 8px; }
select { font: inherit; font-size: 13px; }
.chart { height: 420px; } .chart text { fill: var(--quiet) !important; }
"""
DRAW = """
const figures = JSON.parse(document.getElementById("figures").textContent);
for (const select of document.querySelectorAll("select")) {
  const place = document.getElementById(select.dataset.chart);
  const draw = () => {
    const figure = figures[select.dataset.chart][select.value];
    Plotly.react(place, figure.data, figure.layout, { displaylogo: false, responsive: true });
  };
  select.addEventListener("change", draw);
  draw();
}
"""


def html_report(store: RunStore, found: Comparison, experiment: Experiment | None = None) -> str:
    """The whole file. Raises UserError for a run that was deleted meanwhile."""
    blocks = document(store, found, experiment)
    title = next(block.text for block in blocks if isinstance(block, Heading))
    body = "\n".join(map(_block, blocks))
    figures = json.dumps(_figures(store, found), allow_nan=False).replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)}</title><style>{STYLE}</style></head><body>\n{body}\n"
        f'<script type="application/json" id="figures">{figures}</script>\n'
        f"<script>{plotly_js()}</script>\n<script>{DRAW}</script></body></html>\n"
    )


def report_zip(store: RunStore, found: Comparison, experiment: Experiment | None, exports_dir: Path) -> Path:
    """Write report.html, report.md and runs.csv into one zip in `exports_dir`; it appears whole.

    Raises UserError where nothing is compared, or the disk refuses.
    """
    if not found.rows:
        raise UserError("There is no run to report on.", "Choose some, or wait for the first.", "data")
    texts = {
        "report.html": html_report(store, found, experiment),
        "report.md": markdown(document(store, found, experiment)),
        "runs.csv": found.to_csv(),
    }
    name = re.sub(r"[^A-Za-z0-9]+", "-", experiment.name if experiment else "comparison").strip("-")[:40]
    path = exports_dir / f"{name or 'report'}-{secrets.token_hex(4)}.zip"
    try:
        with (
            atomic.new_file(path, durable=False) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for member, text in texts.items():
                archive.writestr(member, text)
    except OSError as error:
        raise UserError(f"The zip cannot be written: {error.strerror}.", "Free some space.", "disk") from error
    return path


def plotly_js() -> str:
    """The text of plotly.js as the pinned plotly package brings it."""
    path = distribution("plotly").locate_file("plotly/package_data/plotly.min.js")
    return Path(str(path)).read_text(encoding="utf-8")


def _figures(store: RunStore, found: Comparison) -> dict[str, dict[str, object]]:
    """Chart -> choice -> figure of plotly.js."""
    drawn: dict[str, object] = {
        f"{title}, by {axis}": charts.curves_figure(store, found, curve, axis, SMOOTHING)
        for curve, title in charts.CURVES.items()
        for axis in curves.AXES
    }
    return {CURVES_BLOCK: drawn, "prices": {PRICES[price]: charts.price_figure(found, price) for price in PRICES}}


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{_escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{_escape(block.text)}</p>"
    if isinstance(block, Bullets):
        return "<ul>" + "".join(f"<li>{_escape(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Code):
        return f"<pre>{_escape(block.text)}</pre>"
    if isinstance(block, Figure):
        return _chart(block)
    return _table(block)


def _chart(block: Figure) -> str:
    if block.name == CURVES_BLOCK:
        names = [f"{title}, by {axis}" for title in charts.CURVES.values() for axis in curves.AXES]
    else:
        names = list(PRICES.values())
    options = "".join(f"<option>{_escape(name)}</option>" for name in names)
    label = f'<select data-chart="{block.name}" aria-label="What the chart shows">{options}</select>'
    return f'<p>{label}</p><div class="chart" id="{block.name}"></div>'


def _table(block: Table) -> str:
    def line(row: tuple[str, ...], tag: str) -> str:
        kinds = ("" if number < block.texts else ' class="number"' for number in range(len(row)))
        return (
            "<tr>"
            + "".join(f"<{tag}{kind}>{_escape(cell)}</{tag}>" for cell, kind in zip(row, kinds, strict=True))
            + "</tr>"
        )

    head = f"<thead>{line(block.header, 'th')}</thead>" if any(block.header) else ""
    body = "".join(line(row, "td") for row in block.rows)
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _escape(text: str) -> str:
    return html.escape(redact(text), quote=True)
