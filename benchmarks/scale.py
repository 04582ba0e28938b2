"""How the run list and the chart bear size: 10,000 runs, a run of 1,000,000 steps.

python benchmarks/scale.py [--runs N] [--steps N]     prints the table of docs/reliability.md
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainer import events  # noqa: E402
from trainer.config import default_config  # noqa: E402
from trainer.history import History  # noqa: E402
from trainer.lab import Lab, Settings  # noqa: E402
from trainer.runs import RunStore, write_json  # noqa: E402

REFRESHES = 7


def make_runs(folder: Path, count: int) -> None:
    """Run folders as ended runs leave them: configuration, plan, a state, some steps, an end."""
    config = default_config().to_json()
    for number in range(count):
        run = folder / f"20260101-{number // 3600 % 24:02}{number // 60 % 60:02}{number % 60:02}-{number:06x}"
        run.mkdir(parents=True)
        (run / "config.json").write_text(json.dumps(config | {"title": f"run {number}"}))
        (run / "plan.json").write_text(json.dumps({"trainable": 1000 + number, "adapter_bytes": 4000}))
        rows = [{"type": "state", "time": 1.0, "state": "running", "steps": 20}]
        rows += [{"type": "metrics", "time": 2.0, "step": step, "loss": 1 / step} for step in range(1, 21)]
        rows += [{"type": "state", "time": 3.0, "state": "finished"}]
        (run / "events.jsonl").write_bytes(b"".join(map(events.encode, rows)))


def make_long_run(store: RunStore, steps: int) -> Path:
    """A run of `steps` steps, written by the worker's own writer."""
    run = store.folder / "20260201-000000-abcdef"
    run.mkdir()
    write_json(run / "config.json", default_config().to_json())
    writer = events.EventWriter(run / "events.jsonl", figures=True)
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
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def payload(lab: Lab, run_id: str, seen: str) -> tuple[int, float]:
    """Bytes and seconds of one refresh of the live side that has news."""
    from ui import live

    seconds, values = timed(lambda: live.refresh(lab, run_id, seen))
    sent = [value.get("figure") if isinstance(value, dict) else value for value in values[2:4]]
    return sum(len(str(value)) for value in [values[0], *sent]), seconds


def measure_list(folder: Path, count: int) -> list[tuple[str, str]]:
    make_runs(folder, count)
    cold, _ = timed(lambda: RunStore(folder).summaries())
    first, rows = timed(lambda: RunStore(folder).summaries())
    assert len(rows) == count
    store = RunStore(folder)
    store.summaries()
    again = statistics.median(timed(store.summaries)[0] for _ in range(REFRESHES))
    look = statistics.median(timed(store.open_runs)[0] for _ in range(REFRESHES))
    return [
        (f"{count:,} runs, list, first time ever (no index)", f"{cold:.2f} s"),
        (f"{count:,} runs, list, a new process", f"{first:.2f} s"),
        (f"{count:,} runs, list, again", f"{again:.2f} s"),
        (f"{count:,} runs, a look for queued ones, once a second", f"{look * 1000:.0f} ms"),
    ]


def measure_run(folder: Path, steps: int) -> list[tuple[str, str]]:
    lab = Lab(Settings(runs_dir=folder))
    run = make_long_run(lab.store, steps)
    size = (run / "events.jsonl").stat().st_size
    opened, history = timed(lambda: History(run).refresh())
    assert len(history.train) == steps
    _, (bytes_first, page) = 0, payload(Lab(Settings(runs_dir=folder)), run.name, "")
    lab.store.get(run.name)
    again = []
    for step in range(steps + 1, steps + 1 + REFRESHES):
        events.append(run / "events.jsonl", "metrics", step=step, loss=1.0)
        again.append(payload(lab, run.name, f"{run.name}|old|old|old"))
    (run / "metrics.f64").unlink()
    parsed, _ = timed(lambda: History(run).refresh())
    return [
        (f"{steps:,} steps ({size / 2**20:.0f} MiB of events), opened", f"{opened:.2f} s"),
        (f"{steps:,} steps, opened and drawn for the page", f"{page:.2f} s, {bytes_first / 1000:.0f} kB"),
        (f"{steps:,} steps, a refresh", f"{statistics.median(s for _, s in again) * 1000:.0f} ms, "
         f"{max(b for b, _ in again) / 1000:.0f} kB"),
        (f"{steps:,} steps, opened without metrics.f64, which it makes anew", f"{parsed:.2f} s"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1_000_000)
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    print("| what | measured |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_list(Path(folder) / "many", options.runs)
        rows += measure_run(Path(folder) / "short", 1000)
        rows += measure_run(Path(folder) / "long", options.steps)
    for what, measured in rows:
        print(f"| {what} | {measured} |")


if __name__ == "__main__":
    main()
