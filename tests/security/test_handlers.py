"""Every handler, called by name or by index: its inputs are checked before it sees them; failures come in words."""

from __future__ import annotations

import asyncio
import html
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from tests.security import fuzz
from trainer.common.errors import UserError
from ui.handlers import UNEXPECTED
from ui.security.gate import SafeBlocks, check_values

FILE = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SafeBlocks:
    """A page of careless handlers."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    with SafeBlocks() as made:
        text, box, number, choice = gr.Textbox(), gr.Checkbox(), gr.Number(), gr.Radio(["a", "b"])
        upload, out = gr.UploadButton(), gr.Textbox()
        for source in (text, box, number, choice, upload):
            gr.Button().click(lambda value: str(value), source, out)
        gr.Button().click(lambda _: 1 / 0, text, out)
        gr.Button().click(_refuse, text, out)
        gr.Button().click(None, text, out, js="(x) => x")
    return made


def _refuse(value: str) -> str:
    raise UserError(f"No {value}.", "Try again.")


def call(page: SafeBlocks, index: int, *values: Any) -> Any:
    return asyncio.run(page.process_api(page.fns[index], list(values)))["data"][0]


def refused(page: SafeBlocks, index: int, *values: Any) -> str:
    with pytest.raises(gr.Error) as caught:
        call(page, index, *values)
    assert caught.value.print_exception is False
    return str(caught.value.message)


def test_values_of_the_right_kind_pass(page: SafeBlocks) -> None:
    for index, value in enumerate(("x", True, 3, "a")):
        assert call(page, index, value) == str(value)
        assert call(page, index, None) == "None"


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("value", [["x"], {"a": 1}, {"path": "/etc/passwd"}, [[]] * 3])
def test_values_of_another_kind_are_refused(page: SafeBlocks, index: int, value: Any) -> None:
    assert "kind of value" in refused(page, index, value)


@pytest.mark.parametrize(("index", "value"), [(0, 3), (0, True), (1, "x"), (1, 1), (2, "3"), (2, 10**400), (3, 1)])
def test_kinds_are_not_mixed_up(page: SafeBlocks, index: int, value: Any) -> None:
    refused(page, index, value)


@pytest.mark.parametrize("values", [(), ("a", "b")])
def test_another_number_of_values_is_refused(page: SafeBlocks, values: tuple[str, ...]) -> None:
    assert "how the page calls" in refused(page, 0, *values)


def test_a_handler_of_the_browser_alone_cannot_be_called(page: SafeBlocks) -> None:
    assert "how the page calls" in refused(page, 7, "x")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "README.md", "http://127.0.0.1:1/x", "https://example.com/x", "", "\0", 3, "../x", None]
)
def test_only_uploads_are_taken_for_files(page: SafeBlocks, path: Any, tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    kept = tmp_path / "uploads" / "a.txt"
    kept.write_text("x")
    assert call(page, 4, {"path": str(kept), **FILE}) == str(kept)
    assert "was not uploaded" in refused(page, 4, {"path": path, **FILE})
    assert "was not uploaded" in refused(page, 0, {"a": [{"path": path, **FILE}]})
    link = tmp_path / "uploads" / "link"
    link.symlink_to("/etc/passwd")
    assert "was not uploaded" in refused(page, 4, {"path": str(link), **FILE})


@pytest.mark.parametrize("value", ["x" * 1_000_001, [0] * 60_000, fuzz.deep(50)])
def test_values_have_a_size(value: Any) -> None:
    with pytest.raises(UserError, match="larger or deeper"):
        check_values([value])


def test_what_fails_unexpectedly_is_told_without_its_inside(
    page: SafeBlocks, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(page, 5, "x") == html.escape(UNEXPECTED)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_what_is_refused_is_told_in_words_that_are_safe_to_show(page: SafeBlocks) -> None:
    assert refused(page, 6, "<b>") == "No &lt;b&gt;. Try again."
    assert "<b>" not in refused(page, 3, "<b>")
