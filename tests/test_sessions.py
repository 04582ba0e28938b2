"""A page that stays open: its session does not grow with its requests."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gradio as gr
from gradio.state_holder import StateHolder

from ui.sessions import keep_ids


def test_a_session_does_not_grow_with_what_is_updated() -> None:
    def refresh(seen: str) -> list[Any]:
        return [gr.skip() if seen else gr.update(value="new"), gr.update(value=f"{seen}x")]

    with gr.Blocks() as page:
        shown, seen = gr.HTML("old"), gr.Textbox("")
        gr.Button().click(refresh, seen, [shown, seen])
    keep_ids()
    sessions = StateHolder()
    sessions.set_blocks(page)
    state, answer = sessions["a page"], ""

    async def ask(times: int) -> None:
        nonlocal answer
        for _ in range(times):
            found = await page.process_api(0, [answer], state=state)
            answer = found["data"][1]["value"]

    with ThreadPoolExecutor(1) as thread:  # Playwright's event loop may run in this one
        thread.submit(asyncio.run, ask(3)).result()
        size = len(state.blocks_config.blocks)
        thread.submit(asyncio.run, ask(20)).result()
    assert answer == "x" * 23
    assert len(state.blocks_config.blocks) == size
