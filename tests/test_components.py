"""The page's own components: scripts that are joined to one, and props that reach it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from ui import components

SCRIPTS = sorted(path.name for path in (Path(__file__).parents[1] / "ui/static").glob("*.js"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_joined_scripts_have_every_name_once(script: str) -> None:
    """A browser takes the second of two functions of one name without a word."""
    text = components.bundle(script)
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", text, re.MULTILINE)
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert not re.search(r"^(import|export)\b", text, re.MULTILINE)


def test_what_a_script_imports_stands_before_it_once() -> None:
    text = components.bundle("modules_panel.js")
    places = [text.index(f"function {name}(") for name in ("make", "linesOf", "drawPicture", "paintRow")]
    assert places == sorted(places)
    assert text.count("function make(") == 1


def test_props_are_no_events() -> None:
    """gr.HTML would drop an update of a prop whose name its script quotes."""
    assert not hasattr(components.chart("a-chart", "A chart"), "figure")
    assert hasattr(components.component("model_field.js", "", "model", here="", found=""), "search")
