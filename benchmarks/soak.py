"""Soak test: kill the worker, the app or both at random, and check the invariants after each kill.

python benchmarks/soak.py [--kills 200] [--seed N]     prints each kill; exits with 1 at the first violation
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.faults.bench import Bench  # noqa: E402
from tests.support import tiny  # noqa: E402
from tests.support.lab import wait_for  # noqa: E402
from trainer.common import file_locks  # noqa: E402
from trainer.runs import lifecycle  # noqa: E402
from trainer.runs.history import ENDED  # noqa: E402
from trainer.runs.run import Run  # noqa: E402
from trainer.training import checkpoints  # noqa: E402

PATIENCE = 300.0
"""Seconds for a worker to start."""
LONGEST_WAIT = 2.0
"""Maximum seconds from the chosen moment to the kill."""


def soak(bench: Bench, kills: int, deadline: float, chance: random.Random) -> Counter[str]:
    """Kill and check, at most until `deadline`. Raises AssertionError at the first violation."""
    done: Counter[str] = Counter()
    run = bench.create(save_steps=5)
    app, adopted = bench.app(), False
    for number in range(1, kills + 1):
        if time.monotonic() > deadline:
            break
        target = chance.choice(("worker", "worker", "app", "both"))
        moment = chance.choice(("starting", "training"))
        _reach(bench, run, moment)
        time.sleep(chance.uniform(0, LONGEST_WAIT))
        worker = file_locks.holder(run.folder / "lock")
        bench.acknowledge(run)
        if target != "worker":
            app.kill()
            app.wait()
        if target != "app" and worker:
            os.kill(worker, 9)
            wait_for(partial(_held_by_another, run.folder / "lock", worker), 5)
        # only the app that started a worker learns how it died
        end = "interrupted" if target == "both" or adopted else "failed"
        _check(bench, run, "" if target == "app" else end, worker)
        if target != "worker":
            app = bench.app()
        adopted = bench.state(run) not in ENDED
        if not adopted:
            lifecycle.resume_run(bench.run(run))
        done[f"{target}, {moment}"] += 1
        print(f"{number:4} {target:7} {moment:9} step {bench.run(run).history.step:6}", flush=True)
    _reach(bench, run, "training")
    lifecycle.stop_run(bench.run(run))
    bench.until(run, "stopped", PATIENCE)
    steps = bench.run(run).history.train.curve("loss")[0].tolist()
    assert steps == list(range(1, len(steps) + 1)), "a step is missing"
    assert checkpoints.newest_complete(run.folder / "checkpoints") is not None
    return done


def _reach(bench: Bench, run: Run, moment: str) -> None:
    """Wait until the run's worker has started, or takes steps."""
    wait_for(lambda: file_locks.holder(run.folder / "lock"), PATIENCE)
    if moment == "training":
        before = bench.run(run).history.step
        wait_for(lambda: bench.run(run).history.step > before or bench.state(run) in ENDED, PATIENCE)


def _held_by_another(lock: Path, process: int) -> bool:
    return file_locks.holder(lock) != process


def _check(bench: Bench, run: Run, end: str, worker: int | None) -> None:
    """No event is lost, the state is correct within 2 s, at most one worker runs, marked checkpoints are complete."""
    if not end or worker is None:
        assert file_locks.holder(run.folder / "lock") == worker
        assert bench.state(run) not in ENDED
    else:
        wait_for(lambda: bench.state(run) == end, 2)
        assert file_locks.holder(run.folder / "lock") is None
    bench.holds(run)
    for path in (run.folder / "checkpoints").glob("checkpoint-*"):
        # a running worker may remove the marker, and then the checkpoint, in the meantime
        complete = not (path / checkpoints.MARKER).exists() or checkpoints.is_complete(path)
        assert complete or not (path / checkpoints.MARKER).exists(), f"{path.name} is marked but incomplete"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=600, help="time limit")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LAB_DEVICE_LOCKS"] = f"{folder}/locks"
        tiny.save_model(Path(folder) / "models" / "phi3", "phi3")
        bench = Bench(Path(folder), Path(folder) / "models")
        started = time.monotonic()
        try:
            done = soak(bench, options.kills, started + options.minutes * 60, random.Random(options.seed))
        finally:
            bench.close()
        minutes = (time.monotonic() - started) / 60
    print(f"{sum(done.values())} kills in {minutes:.0f} minutes, seed {options.seed}, every check passed:")
    for what, count in sorted(done.items()):
        print(f"  {what:20} {count}")


if __name__ == "__main__":
    main()
