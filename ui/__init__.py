"""The page: builds it, secures it, serves it. No training logic."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr

from trainer.service.lab import Lab
from ui import api, server
from ui.components import component, load_plotly
from ui.security import upload_folder
from ui.security.gate import SafeBlocks
from ui.sessions import describe_once, keep_ids
from ui.tabs.compare import CompareTab
from ui.tabs.runs import RunsTab
from ui.tabs.train import TrainTab
from ui.views import HTML

TITLE = "LoRA Module Lab"
DAY = 86400
THREADS = 64
"""For handlers, of which those that wait for an analysis take `analysis_process.PLACES` for each of two processes.
Not 40, for which Gradio would let them share the threads of its own routes."""


def build(lab: Lab, has_password: bool = False) -> gr.Blocks:
    """The whole page for one lab."""
    # Gradio's default folder is shared by all programs and users of the machine
    os.environ["GRADIO_TEMP_DIR"] = str(upload_folder.make(lab.settings.uploads_dir.resolve()))
    page: gr.Blocks
    with SafeBlocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(DAY, DAY)) as page:
        api.build(lab)  # first, so that its endpoint names are not taken
        component("header.js", HTML.macros("page.html")("header", TITLE, has_password), "header")
        component("download.js", "", "downloads", visible="hidden")
        load_plotly()
        with gr.Tabs(selected="train", elem_id="tabs") as tabs:
            with gr.Tab("Train", id="train", render_children=True):
                train = TrainTab(lab, page)
            with gr.Tab("Runs", id="runs", render_children=True) as tab:
                runs = RunsTab(lab, train, tabs, tab)
            with gr.Tab("Compare", id="compare", render_children=True) as tab:
                compare = CompareTab(lab, train, tabs, tab)
                runs.compare_in(compare.pick)
    describe_once(page)
    keep_ids()
    return page


def launch(
    lab: Lab, host: str, port: int, password: str = "", hosts: Iterable[str] = (), stop_runs: bool = False
) -> None:
    """Serve the page until KeyboardInterrupt, then close the lab; prints its address.

    `stop_runs`: stop running trainings as well, with a checkpoint.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)
    name = f"[{host}]" if ":" in host else host
    running = None
    try:
        running = server.start(make_app(lab, password, hosts), host, port)
        lab.start()  # only now: the imports of its processes would delay the first page
        print(f"LoRA Module Lab is running on http://{name}:{port}", flush=True)
        while True:
            time.sleep(3600)
    finally:
        if stop_runs:
            print("Stopping running trainings, with a checkpoint", flush=True)
        lab.close(stop_runs)  # before the server, whose open requests may wait for the lab
        if running is not None:
            server.stop(running)


def make_app(lab: Lab, password: str = "", hosts: Iterable[str] = ()) -> Any:
    """The page as an ASGI app, with everything that secures it."""
    remove_old(lab.settings.exports_dir)
    page = build(lab, bool(password))
    page.max_threads = THREADS
    page.queue(default_concurrency_limit=4)
    return server.make_app(page, lab, password, hosts)


def remove_old(folder: Path) -> None:
    """Remove exports that are more than a day old: they have been downloaded."""
    for path in folder.glob("*"):
        if time.time() - path.lstat().st_mtime < DAY:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
