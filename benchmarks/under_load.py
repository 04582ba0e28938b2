"""How fast the app answers while 200 callers wait for the analysis of models that never ends.

python benchmarks/under_load.py      prints a table; half a minute
The process that analyzes models is frozen (SIGSTOP), the worst that a hostile model or a dead network disk can do to
it. Half of the calls go to /run/modules, half through Gradio's queue; each names a model of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support import app_process  # noqa: E402
from tests.support.app_process import App  # noqa: E402
from tests.support.lab import wait_for  # noqa: E402
from trainer.execution.analysis_process import PLACES  # noqa: E402

CALLS = 200
SECONDS = 15.0
PATHS = {"page": "/", "settings of the page": "/config", "robots.txt": "/robots.txt", "list of runs": "runs"}
SMALL = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}


def analysis_of(app: App, task: str = "models") -> psutil.Process:
    """The app's process that analyzes models or data, once it has started."""

    def found() -> list[psutil.Process]:
        children = psutil.Process(app.process.pid).children()
        return [
            child for child in children if child.cmdline()[-1] == task and "analysis_server" in child.cmdline()[2]
        ]

    process: psutil.Process = wait_for(found)[0]
    return process


@dataclass
class Latencies:
    """Seconds of every answer by what was asked for: while the calls arrive, and once they wait or were refused."""

    burst: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PATHS})
    waiting: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PATHS})
    ends: Counter[str] = field(default_factory=Counter)
    """How the calls had ended at the end, and how many were waiting."""


async def measure(app: App, calls: int, seconds: float) -> Latencies:
    """The app's answers while `calls` arrive, and for `seconds` after those that find no place were refused."""
    found, limits = Latencies(), httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=app.address, timeout=120, limits=limits) as client,
        _calls(client, calls, found.ends),
    ):
        while found.ends.total() < calls - PLACES:
            await _ask(client, found.burst)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await _ask(client, found.waiting)
    return found


async def _ask(client: httpx.AsyncClient, times: dict[str, list[float]]) -> None:
    for name, path in PATHS.items():
        began = time.perf_counter()
        if path == "runs":
            answer = await client.post("/gradio_api/run/runs", json={"data": []})
        else:
            answer = await client.get(path)
        times[name].append(time.perf_counter() - began)
        answer.raise_for_status()


@asynccontextmanager
async def _calls(client: httpx.AsyncClient, count: int, ends: Counter[str]) -> AsyncIterator[None]:
    """The calls, as long as the context lasts."""

    async def direct(number: int) -> None:
        answer = await client.post("/gradio_api/run/modules", json={"data": [f"slow-{number}", "main"]})
        ends["refused: busy" if "busy" in answer.text else answer.text] += 1

    async def queued(number: int) -> None:
        asked = await client.post("/gradio_api/call/modules", json={"data": [f"slow-{number}", "main"]})
        if "busy" in asked.text:
            ends["refused: busy"] += 1
            return
        async with client.stream("GET", f"/gradio_api/call/modules/{asked.json()['event_id']}") as events:
            async for line in events.aiter_lines():
                if line.startswith("data:") and line != "data: null":
                    ends["refused: busy" if "busy" in line else line] += 1
                    return

    waiting = [asyncio.create_task((direct if number % 2 else queued)(number)) for number in range(count)]
    try:
        await asyncio.sleep(0)  # so that they are under way
        yield
    finally:
        ends["waiting"] = sum(not task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@contextmanager
def frozen(folder: Path, calls: int) -> Iterator[tuple[App, psutil.Process]]:
    """An app with as many models as calls, and its process that analyzes them, which is frozen."""
    for number in range(calls):
        (folder / f"models/slow-{number}").mkdir(parents=True)
        (folder / f"models/slow-{number}/config.json").write_text(json.dumps(SMALL))
    with app_process.running(folder, "--models-dir", str(folder / "models")) as app:
        ready = httpx.post(f"{app.address}/gradio_api/run/modules", json={"data": ["demo", "main"]}, timeout=180)
        ready.raise_for_status()
        analysis = analysis_of(app)
        analysis.send_signal(signal.SIGSTOP)
        yield app, analysis


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, frozen(Path(folder), options.calls) as (app, _):
        found = asyncio.run(measure(app, options.calls, options.seconds))
    print(f"{options.calls} calls: " + ", ".join(f"{count} {end}" for end, count in found.ends.most_common()))
    print("\n| answer | slowest while they arrive | median while they wait | slowest |\n|---|---|---|---|")
    for name, seen in found.waiting.items():
        figures = max(found.burst[name], default=0.0), statistics.median(seen), max(seen)
        print(f"| {name} | " + " | ".join(f"{figure * 1000:.0f} ms" for figure in figures) + " |")


if __name__ == "__main__":
    main()
