"""A button that prepares a file and then downloads it in the browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

# the link gets its address a moment after the event has ended
_CLICK = """() => {{
  const start = (left) => {{
    const link = document.querySelector("a#{id}, #{id} a") ?? document.querySelector("#{id}");
    if (link && (link.href || left === 0)) link.click();
    else if (left > 0) setTimeout(() => start(left - 1), 50);
  }};
  setTimeout(() => start(20), 50);
}}"""


def wire(button: gr.Button, prepare: Callable[..., Any], source: gr.blocks.Block, elem_id: str) -> None:
    """On a click, `prepare(source's value)` makes the file, and the browser saves it."""
    file = gr.DownloadButton("File", visible="hidden", elem_id=elem_id)
    button.click(
        prepare, source, file, show_progress="hidden", concurrency_limit=2, api_visibility="private"
    ).success(None, js=_CLICK.format(id=elem_id))
