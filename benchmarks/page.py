"""Latency of the page: start, module map, first loss, ticks during a training, many and long runs.

python benchmarks/page.py            prints the table of docs/benchmarks.md; a quarter of an hour
Every ratio compares two things measured alternately in the same run; every figure is a median.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app import free_port  # noqa: E402
from benchmarks.scale import RUNS, STEPS, measure_list, measure_model, measure_run  # noqa: E402
from trainer import service  # noqa: E402
from trainer.config.schema import default_config  # noqa: E402
from trainer.planning.scenarios import scenario  # noqa: E402
from trainer.runs.history import ENDED, History  # noqa: E402
from trainer.service.lab import Lab, Settings  # noqa: E402

EMPTY_PAGE = """
import sys, gradio as gr
with gr.Blocks() as page:
    gr.Markdown("empty")
page.launch(server_port=int(sys.argv[1]), quiet=True, ssr_mode=False)
"""


WINDOW = 15.0
"""Seconds per window in which steps are counted."""


def first_page(command: list[str], port: int) -> float:
    """Seconds from the start of a server's process to its first page."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                    answer.read()
                return time.perf_counter() - started
            except OSError:
                time.sleep(0.02)
    finally:
        process.terminate()
        process.wait()


def measure_start(rounds: int, folder: Path) -> tuple[float, float]:
    """Median seconds to the first page of the app and of an empty Gradio page, in the order ABBA."""
    empty_file = folder / "empty.py"
    empty_file.write_text(EMPTY_PAGE)
    times: dict[str, list[float]] = {"app": [], "empty": []}
    for number in range(rounds):
        for kind in ("app", "empty") if number % 2 else ("empty", "app"):
            port = free_port("127.0.0.1", 8100)
            app = ["app.py", "--port", str(port), "--runs-dir", str(folder / f"runs-{number}")]
            times[kind].append(first_page(app if kind == "app" else [str(empty_file), str(port)], port))
    return statistics.median(times["app"]), statistics.median(times["empty"])


def measure_first_loss(rounds: int, folder: Path, warm: bool) -> float:
    """Median seconds from Train to the first loss of the demo; not `warm`: without a spare worker."""
    times = []
    for number in range(rounds):
        lab = Lab(Settings(runs_dir=folder / f"first-{warm}-{number}"))
        lab.start()
        try:
            config = replace(default_config(), modules=scenario("5").modules)
            service.planning.plan(lab, config)
            if warm:
                time.sleep(25)  # the spare worker's imports
            else:
                lab.scheduler.drop_spare()
            started = time.perf_counter()
            run = service.runs.start(lab, config, service.planning.plan(lab, config))
            while not lab.store.get(run.id).history.train:
                time.sleep(0.02)
            times.append(time.perf_counter() - started)
            end(lab, run.id)
        finally:
            lab.close()
    return statistics.median(times)


def end(lab: Lab, run_id: str) -> None:
    """Stop a run and wait until it has ended."""
    service.runs.stop(lab, run_id)
    while lab.store.get(run_id).history.state not in ENDED:
        time.sleep(0.1)


@contextmanager
def served_app(folder: Path) -> Iterator[str]:
    """The app in its own process; yields its address."""
    port = free_port("127.0.0.1", 8100)
    process = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port), "--runs-dir", str(folder)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(address, timeout=30).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser's page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser.new_page(viewport={"width": 1440, "height": 900})
        browser.close()


def measure_slowdown(windows: int, folder: Path) -> float:
    """Share of training speed that the demo loses while a browser shows it; windows of one run, ABBA."""
    from gradio_client import Client

    config = replace(default_config(), modules=scenario("5").modules)
    endless: dict[str, Any] = {"max_steps": 100_000, "eval_steps": 100_000, "save_steps": 100_000}
    config = replace(config, training=replace(config.training, **endless))
    steps = {True: 0, False: 0}
    with served_app(folder / "shown") as address, chromium() as page:
        client = Client(address, verbose=False)
        run_id = client.predict(config.to_json(), api_name="/train")
        history = History(folder / "shown" / run_id)
        while history.refresh().step < 50:
            time.sleep(0.1)
        for number in range(windows):
            shown = number % 4 in (1, 2)
            page.goto(address if shown else "about:blank")
            page.wait_for_timeout(6000)  # loading the page does not count
            before = history.refresh().step
            time.sleep(WINDOW)
            steps[shown] += history.refresh().step - before
        for _ in range(2):
            client.predict(run_id, api_name="/stop")
    return 1 - steps[True] / steps[False]


def measure_ticks(count: int, folder: Path) -> tuple[float, float, float]:
    """Seconds from a click on a checkbox to the new summary: p50 and p95 while the demo trains, p95 when idle."""
    with served_app(folder / "ticks") as address, chromium() as page:
        page.goto(address)
        page.locator(".modules input[type=checkbox]").first.wait_for(timeout=90_000)
        page.wait_for_timeout(3000)
        idle = [tick(page) for _ in range(count)]
        page.locator("#train").click()
        page.get_by_text("running", exact=False).first.wait_for(timeout=90_000)
        page.wait_for_timeout(8000)
        busy = [tick(page) for _ in range(count)]
    cut = statistics.quantiles(busy, n=20)
    return statistics.median(busy), cut[-1], statistics.quantiles(idle, n=20)[-1]


def tick(page: Any) -> float:
    """Seconds from a click on the first checkbox to the changed summary, timed inside the browser."""
    return float(
        page.evaluate("""async () => {
            const box = document.querySelector(".modules input[type=checkbox]:not(:disabled)");
            const figure = () => document.querySelector("#go .figures").textContent;
            const before = figure();
            const started = performance.now();
            box.click();
            while (figure() === before) {
                if (performance.now() - started > 20000) return 20;
                await new Promise(requestAnimationFrame);
            }
            return (performance.now() - started) / 1000;
        }""")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LAB_DEVICE_LOCKS"] = str(folder / "locks")
        app, empty = measure_start(rounds, folder)
        rows = [
            (
                "first page of the app ÷ of an empty Gradio page",
                f"{app / empty:.2f}",
                "≤ 1.3",
                f"{app:.1f} s ÷ {empty:.1f} s",
            ),
            (
                "Train to first loss of the demo, cold",
                f"{measure_first_loss(rounds, folder, False):.1f} s",
                "≤ 10 s",
                "",
            ),
            (
                "Train to first loss of the demo, warm spare",
                f"{measure_first_loss(rounds, folder, True):.1f} s",
                "≤ 3 s",
                "",
            ),
        ]
        middle, high, idle = measure_ticks(40, folder)
        rows.append(
            ("a tick while training, p95", f"{high * 1000:.0f} ms", "≤ 200 ms", f"median {middle * 1000:.0f} ms")
        )
        rows.append(("a tick on an idle machine, p95", f"{idle * 1000:.0f} ms", "", ""))
        rows.append(
            ("training speed lost to an open page", f"{measure_slowdown(12, folder):.1%}", "< 3 %", "alternating")
        )
        parts = {
            "14B": measure_model(folder / "14b", 40),
            f"{RUNS:,} runs": measure_list(folder / "many", RUNS),
            f"{STEPS:,} steps": measure_run(folder / "long", STEPS),
        }
        rows += [
            (f"{name}, {what}", measured, "≤ 1 s" if measured.endswith("ms") and "rebuilt" not in what else "", "")
            for name, part in parts.items()
            for what, measured in part.items()
            if "no index" not in what
        ]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "gradio"))
    machine = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"
    print(f"{time.strftime('%Y-%m-%d')}, {machine}, {versions}\n")
    print("| what | measured | goal | |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
