"""The report as one self-contained HTML file, plotly.js included, which opens offline.

plotly.js is read from the plotly package as text; the package is not imported, since a chart is plain JSON.
"""

from __future__ import annotations

import json
import re
import secrets
import zipfile
from importlib.metadata import distribution
from pathlib import Path

from markupsafe import Markup

from trainer.common import atomic
from trainer.common.errors import UserError
from trainer.common.redaction import redact
from trainer.common.templates import Templates
from trainer.experiments import charts, curves
from trainer.experiments.comparison import Comparison
from trainer.experiments.experiment_file import Experiment
from trainer.experiments.report import CURVES_BLOCK, PRICES_BLOCK, Heading, document, markdown
from trainer.experiments.table import PRICES
from trainer.runs.store import RunStore

SMOOTHING = 15
"""Steps that training loss is averaged over."""
CHARTS = {
    CURVES_BLOCK: [f"{title}, by {axis}" for title in charts.CURVES.values() for axis in curves.AXES],
    PRICES_BLOCK: list(PRICES.values()),
}
"""The choices of each chart."""


def _redacted(value: object) -> object:
    """Redact a value of the report; Markup contains no text of a run."""
    return redact(value) if type(value) is str else value


TEMPLATES = Templates(Path(__file__).with_name("templates"), finalize=_redacted)


def html_report(store: RunStore, found: Comparison, experiment: Experiment | None = None) -> str:
    """The whole file. Raises UserError if a run has been deleted in the meantime."""
    blocks = document(store, found, experiment)
    title = next(block.text for block in blocks if isinstance(block, Heading))
    figures = json.dumps(_figures(store, found), allow_nan=False).replace("<", "\\u003c")
    return TEMPLATES.render(
        "report.html",
        title=title,
        blocks=[(type(block).__name__, block) for block in blocks],
        charts=CHARTS,
        figures=Markup(figures),  # noqa: S704  JSON without "<"
        plotly_js=Markup(plotly_js()),  # noqa: S704  a file of the plotly package
    )


def report_zip(store: RunStore, found: Comparison, experiment: Experiment | None, exports_dir: Path) -> Path:
    """Write report.html, report.md and runs.csv into a zip in `exports_dir`, atomically.

    Raises UserError if nothing is compared, or the zip cannot be written.
    """
    if not found.rows:
        raise UserError("There is no run to report on.", "Choose some, or wait for the first one.", "data")
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
    """The text of plotly.js from the pinned plotly package."""
    path = distribution("plotly").locate_file("plotly/package_data/plotly.min.js")
    return Path(str(path)).read_text(encoding="utf-8")


def _figures(store: RunStore, found: Comparison) -> dict[str, dict[str, object]]:
    """Chart -> choice -> plotly.js figure."""
    pairs = [(curve, axis) for curve in charts.CURVES for axis in curves.AXES]
    drawn = [charts.curves_figure(store, found, curve, axis, SMOOTHING) for curve, axis in pairs]
    prices = [charts.price_figure(found, price) for price in PRICES]
    return {
        name: dict(zip(CHARTS[name], figures, strict=True))
        for name, figures in ((CURVES_BLOCK, drawn), (PRICES_BLOCK, prices))
    }
