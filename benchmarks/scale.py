"""How the page's parts scale: a hundredth, a tenth and all of 10,000 runs, 1,000,000 steps, 400 layers.

python benchmarks/scale.py           prints the tables of docs/reliability.md; takes some minutes
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainer import service  # noqa: E402
from trainer.common import atomic  # noqa: E402
from trainer.config.schema import default_config  # noqa: E402
from trainer.planning.scenarios import scenario  # noqa: E402
from trainer.runs import event_log  # noqa: E402
from trainer.runs.history import History  # noqa: E402
from trainer.runs.store import RunStore  # noqa: E402
from trainer.service.lab import Lab, Settings  # noqa: E402

REFRESHES = 7
RUNS, STEPS, LAYERS = 10_000, 1_000_000, 400
PHI3: dict[str, Any] = {
    "model_type": "phi3",
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 10,
    "vocab_size": 32064,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 32000,
}
"""Phi-3-medium's."""


def make_runs(folder: Path, count: int) -> None:
    """Run folders of ended runs: configuration, plan, states and some steps."""
    config = default_config().to_json()
    for number in range(count):
        run = folder / f"20260101-{number // 3600 % 24:02}{number // 60 % 60:02}{number % 60:02}-{number:06x}"
        run.mkdir(parents=True)
        (run / "config.json").write_text(json.dumps(config | {"title": f"run {number}"}))
        (run / "plan.json").write_text(json.dumps({"trainable": 1000 + number, "adapter_bytes": 4000}))
        rows = [{"type": "state", "time": 1.0, "state": "running", "steps": 20}]
        rows += [{"type": "metrics", "time": 2.0, "step": step, "loss": 1 / step} for step in range(1, 21)]
        rows += [{"type": "state", "time": 3.0, "state": "finished"}]
        (run / "events.jsonl").write_bytes(b"".join(map(event_log.encode, rows)))


def make_long_run(store: RunStore, steps: int) -> Path:
    """A run of `steps` steps, written by the worker's own writer."""
    run = store.folder / "20260201-000000-abcdef"
    run.mkdir()
    atomic.write_json(run / "config.json", default_config().to_json())
    writer = event_log.EventWriter(run / "events.jsonl", figures=True)
    writer.write("state", state="running", steps=steps, examples=1000)
    for step in range(1, steps + 1):
        loss = 3 / step**0.2 + (hash(step) % 97) / 500
        writer.write(
            "metrics", step=step, epoch=step / 1000, loss=loss, learning_rate=1e-4, grad_norm=0.5 + loss / 7,
            accuracy=0.6, tokens=4096.0 * step, tokens_per_second=1234.5, memory=2**30, elapsed=step / 10,
        )  # fmt: skip
        if step % (steps // 10) == 0:
            writer.write("eval", step=step, eval_loss=loss + 0.1, perplexity=2.0, eval_accuracy=0.5)
            writer.write("checkpoint", step=step)
    writer.write("state", state="stopped")
    writer.close()
    return run


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Wall clock seconds, and the result."""
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def median(times: list[float]) -> str:
    milliseconds = statistics.median(times) * 1e3
    return f"{milliseconds:,.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def refreshed(lab: Lab, run_id: str) -> tuple[float, int]:
    """Time and bytes of one refresh of the live panel that has changes."""
    from ui.panels import live_run

    before = "|".join([run_id, *["old"] * (live_run.SEEN_PARTS - 1)])
    seconds, (status, chart, _, figures, *_) = timed(lambda: live_run.refresh(lab, run_id, before))
    return seconds, len(status) + len(chart["figure"]) + len(figures)


def measure_list(folder: Path, count: int) -> dict[str, str]:
    make_runs(folder, count)
    cold, rows = timed(lambda: RunStore(folder).summaries())
    assert len(rows) == count
    opened = [timed(lambda: RunStore(folder).summaries())[0] for _ in range(REFRESHES)]
    store = RunStore(folder)
    store.open_runs()
    return {
        "list, a new process": median(opened),
        "list, again": median([timed(store.summaries)[0] for _ in range(REFRESHES)]),
        "list, for the first time ever (no index)": median([cold]),
        "check for queued runs": median([timed(store.open_runs)[0] for _ in range(REFRESHES)]),
    }


def measure_run(folder: Path, steps: int) -> dict[str, str]:
    lab = Lab(Settings(runs_dir=folder))
    run = make_long_run(lab.store, steps)
    size = f"{(run / 'events.jsonl').stat().st_size / 2**20:.0f} MiB"
    refreshed(lab, run.name)  # imports
    opened = [timed(lambda: History(run).refresh())[0] for _ in range(REFRESHES)]
    drawn = [refreshed(Lab(Settings(runs_dir=folder)), run.name)[0] for _ in range(REFRESHES)]
    again = []
    for step in range(steps + 1, steps + 1 + REFRESHES):
        event_log.append(run / "events.jsonl", "metrics", step=step, loss=1.0)
        again.append(refreshed(lab, run.name))
    (run / "metrics.f64").unlink()
    rebuilt = timed(lambda: History(run).refresh())[0]
    largest = max(size for _, size in again) / 1000
    return {
        "events on the disk": size,
        "read": median(opened),
        "read and drawn for the page": median(drawn),
        "a refresh with news": median([seconds for seconds, _ in again]),
        "bytes of such a refresh": f"{largest:.0f} kB",
        "read without `metrics.f64`, which is rebuilt": median([rebuilt]),
    }


def measure_model(folder: Path, layers: int) -> dict[str, str]:
    """Module map and plan of Phi-3-medium's shape with `layers` layers (40: 14B), from its config, analysis warm."""
    lab = Lab(Settings(runs_dir=folder, models_dir=folder / "models"))
    maps, plans = [], []
    try:
        for number in range(REFRESHES + 1):
            name = f"phi3-{number}"
            (folder / "models" / name).mkdir(parents=True)
            (folder / "models" / name / "config.json").write_text(json.dumps(PHI3 | {"num_hidden_layers": layers}))
            run = replace(default_config(name), modules=scenario("3").modules)
            maps.append(timed(partial(service.models.module_map, lab, run.model))[0])
            plans.append(timed(partial(service.planning.plan, lab, run))[0])
    finally:
        lab.close()
    return {"module map": median(maps[1:]), "plan of scenario 3": median(plans[1:])}


PARTS: tuple[tuple[str, int, Callable[[Path, int], dict[str, str]]], ...] = (
    ("runs", RUNS, measure_list),
    ("steps of one run", STEPS, measure_run),
    ("layers of Phi-3-medium's shape", LAYERS, measure_model),
)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    machine = f"{os.cpu_count()} cores ({platform.machine()}), load {os.getloadavg()[0]:.1f}"
    print(f"{time.strftime('%Y-%m-%d')}, {machine}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory() as folder:
        for name, whole, measure in PARTS:
            sizes = [whole // part for part in (100, 10, 1)]
            found = [measure(Path(folder) / f"{measure.__name__}-{size}", size) for size in sizes]
            print(f"| {name} | {' | '.join(f'{size:,}' for size in sizes)} |\n|---|---|---|---|")
            for what in found[0]:
                print(f"| {what} | {' | '.join(column[what] for column in found)} |")
            print(flush=True)


if __name__ == "__main__":
    main()
