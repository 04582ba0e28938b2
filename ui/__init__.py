"""The page: components <-> RunConfig, and pictures. No training logic."""

from __future__ import annotations

import contextlib
import logging
import time

import gradio as gr
from starlette.middleware import Middleware

from trainer.lab import Lab
from ui import api
from ui.guard import LocalOnly
from ui.runs_tab import RunsTab
from ui.theme import STYLE, theme
from ui.train_tab import TrainTab

TITLE = "LoRA Module Lab"
HEADER = f'<header class="top"><h1>{TITLE}</h1></header>'


def build(lab: Lab) -> gr.Blocks:
    """The whole page over one lab."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(86400, 86400)) as page:
        api.build(lab)  # first, so that its names are free
        gr.HTML(HEADER, apply_default_css=False, elem_id="header")
        with gr.Tabs(selected="train", elem_id="tabs") as tabs:
            with gr.Tab("Train", id="train", render_children=True):
                train = TrainTab(lab, page)
            with gr.Tab("Runs", id="runs", render_children=True) as tab:
                RunsTab(lab, train.live, tabs, tab)
    return page


def launch(lab: Lab, host: str, port: int) -> None:
    """Serve the page until Ctrl+C, and say in one line where."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    page = build(lab)
    page.queue(default_concurrency_limit=4)
    page.launch(
        server_name=host,
        server_port=port,
        theme=theme(),
        css_paths=[STYLE],
        allowed_paths=[str(lab.settings.exports_dir.resolve())],
        app_kwargs={"middleware": [Middleware(LocalOnly)], "docs_url": None, "redoc_url": None},
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        share=False,
        quiet=True,
        max_file_size="5gb",
        prevent_thread_lock=True,
    )
    name = f"[{host}]" if ":" in host else host
    print(f"LoRA Module Lab is running on http://{name}:{port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
    page.close()
