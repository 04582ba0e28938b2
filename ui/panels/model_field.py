"""The Model field: a text box with suggestions. Any name can be typed. Its value is the model's name.

`model_field.js` draws it. The models of this machine are sent when the list opens and filtered in the browser; the
hub is searched by the app's server, never by the page.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from trainer import service
from trainer.common import formatting
from trainer.common.errors import UserError
from trainer.service.lab import Lab
from trainer.service.models import MAX_QUERY, Choice, Unreachable
from ui.components import component
from ui.handlers import DIRECT

TEMPLATE = """<div class="model-field">
<label for="model-input">Model</label>
<input id="model-input" type="text" role="combobox" aria-autocomplete="list" aria-expanded="false"
 aria-controls="model-list" aria-describedby="model-note" autocomplete="off" autocapitalize="off" spellcheck="false"
 maxlength="200" placeholder="demo, a folder’s name, or owner/name of a hub model">
<div class="popup" hidden><div id="model-list" role="listbox" aria-label="Models"></div>
<p id="model-note" role="status"></p></div></div>"""


def build(lab: Lab) -> gr.HTML:
    """The field, wired to the lab's models and to the hub's search."""
    field = component("model_field.js", TEMPLATE, "model", value="demo", label="Model", here="{}", found="{}")
    field.look(lambda: gr.update(here=json.dumps(groups(lab))), None, field, **DIRECT)

    def search(event: gr.EventData) -> Any:
        return gr.update(found=json.dumps(search_hub(lab, query_of(event._data))))

    field.search(search, None, field, **DIRECT)
    return field


def query_of(value: Any) -> str:
    """The query of a search event; empty if its data are invalid."""
    query = value.get("query") if isinstance(value, dict) else ""
    return query[:MAX_QUERY] if isinstance(query, str) else ""


def groups(lab: Lab) -> dict[str, Any]:
    """Models that are known without asking the hub, in groups; each model is listed once."""
    here, cached = service.models.here(lab), service.models.in_cache()
    known = {choice.name: choice for choice in (*cached, *here)}
    recent = [known.get(name, Choice(name)) for name in service.models.recent(lab)]
    rows, seen = [], set[str]()
    for title, choices in (("Used before", recent), ("On this machine", here), ("In the hub’s cache", cached)):
        new = [choice for choice in choices if choice.name not in seen]
        seen |= {choice.name for choice in new}
        if new:
            rows.append({"title": title, "items": [{"name": item.name, "detail": _size(item)} for item in new]})
    return {"groups": rows}


def _size(choice: Choice) -> str:
    """The size of a model's weights on this machine, or a note that they are not here."""
    if choice.bytes is not None:
        return formatting.size(choice.bytes)
    return "to download" if "/" in choice.name else "no weights"


def search_hub(lab: Lab, query: str) -> dict[str, Any]:
    """Search results of the hub, or one line that says why there are none."""
    if len(query.strip()) < 2:
        return {"query": query, "items": [], "note": ""}
    try:
        choices: Sequence[Choice] = service.models.search(lab, query)
    except Unreachable as error:
        return {"query": query, "items": [], "offline": True, "note": f"{error.problem} Models on this machine work."}
    except UserError as error:
        return {"query": query, "items": [], "note": str(error)}
    note = "" if choices else "No language model on the hub has this in its name."
    return {"query": query, "items": [{"name": c.name, "detail": _detail(c)} for c in choices], "note": note}


def _detail(choice: Choice) -> str:
    """Parameters, license, and whether its terms must be accepted."""
    parts = (
        f"{formatting.count(choice.parameters)} parameters" if choice.parameters else "",
        choice.license or "no license given",
        "gated" if choice.gated else "",
        f"{formatting.count(choice.downloads)} downloads" if choice.downloads else "",
    )
    return " · ".join(part for part in parts if part)
