"""The page's own components: an HTML template and a script from `static/` in a gr.HTML.

Scripts are ES modules, so that editors, the type checker and Node's tests can use them directly. gr.HTML runs a
script as the body of a function, which cannot import anything: `bundle` joins a script and its imports.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from ui.theme import STATIC

CHART = '<div class="chart" role="group" aria-label="{label}"></div>'
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+\.js)";\n', re.MULTILINE)
_DOC = re.compile(r"^ */\*\*(?:(?!\*/).)*\*/\n", re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export (\{\};\n?)?", re.MULTILINE)


def component(script: str, template: str, name: str, *, value: str = "", label: str = "", **props: Any) -> gr.HTML:
    """A component drawn by a script from `static/`.

    `name`: id of its element. `value`: may be changed by the browser, and is passed to events. `props`: arguments of
    gr.HTML, and strings for the script that only Python sets.
    """
    code = bundle(script)
    # gr.HTML takes every quoted word in its script for an event, and loses props with the same name
    for prop in props:
        code = code.replace(f'"{prop}"', f'"\\u{ord(prop[0]):04x}{prop[1:]}"')
    return gr.HTML(
        value=value, html_template=template, js_on_load=code, elem_id=name, apply_default_css=False,
        label=label or name.replace("-", " "), **props,
    )  # fmt: skip


def chart(name: str, label: str, visible: bool = True) -> gr.HTML:
    """A chart of plotly.js; its prop `figure` is the JSON of {"data": […], "layout": {…}}."""
    return component("chart.js", CHART.format(label=label), name, label=label, figure="", visible=visible)


def load_plotly() -> None:
    """Load plotly.js for the charts: Gradio only loads it for a gr.Plot."""
    gr.Plot(go.Figure(), show_label=False, container=False, elem_id="plotly-loader", buttons=[])


@cache
def bundle(script: str) -> str:
    """A script from `static/` after everything it imports, as the body of one function. All names must differ."""
    modules: dict[str, str] = {}
    _collect(script, modules)
    return "\n".join(modules.values())


def _collect(script: str, modules: dict[str, str]) -> None:
    """Add a script after what it imports; each file once."""
    text = (STATIC / script).read_text(encoding="utf-8")
    for imported in _IMPORT.findall(text):
        if imported not in modules:
            _collect(imported, modules)
    modules[script] = _EXPORT.sub("", _IMPORT.sub("", _DOC.sub("", text)))
