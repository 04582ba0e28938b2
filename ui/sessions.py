"""Makes sessions cheap. Gradio starts one for every page and for every call of an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio import state_holder
from gradio.blocks import Block

API = ("api_info", "api_info_as_input", "api_info_as_output", "example_inputs")


def describe_once(page: gr.Blocks) -> None:
    """Let every component of a finished page describe itself once, not once for every session.

    For each session, Gradio collects these descriptions of all components again, in its event loop: 80 ms for this
    page, in which nobody else is answered. A session writes its values into its own copy of a description.
    """
    for block in page.blocks.values():
        for name in ("get_config", *(() if block.skip_api else API)):
            method = getattr(block, name, None)
            if method is not None:
                setattr(block, name, _same(method()))


def _same(value: Any) -> Callable[[], Any]:
    return lambda *_, **__: dict(value) if isinstance(value, dict) else value


class Session(state_holder.SessionState):
    """A page's own copies of the components that were updated.

    Each update makes Gradio replace a component by a new one, which has another id. As an input or output it is then
    stored under that id, too, and stays: about 9 kB for every refresh of an open page.
    """

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(value, Block):
            value._id = key
        super().__setitem__(key, value)


def keep_ids() -> None:
    """Make Gradio's new sessions ones of ours; it has no setting for them."""
    state_holder.SessionState = Session  # type: ignore[misc]
