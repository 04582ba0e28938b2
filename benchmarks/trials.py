"""Trials of docs/reliability.md that no test has time for. Each prints its figures; a failed check ends it with 1.

python benchmarks/trials.py queue      500 queued runs: list, refresh, scheduler, start of the next one
python benchmarks/trials.py disk       a full disk in every phase (as root: it mounts a small one)
python benchmarks/trials.py clock      the clock jumps while runs wait and train
python benchmarks/trials.py races      stop, resume and delete at random on live runs, from several processes
python benchmarks/trials.py apps       two apps on one runs folder, one of which is killed
python benchmarks/trials.py readonly   a models folder, then a runs folder, that cannot be written to (as root)
The trials of the page itself: benchmarks/trials_page.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.faults.bench import Bench, starts_of  # noqa: E402
from tests.support import tiny  # noqa: E402
from tests.support.lab import wait_for  # noqa: E402
from trainer.common import file_locks  # noqa: E402
from trainer.common.errors import UserError  # noqa: E402
from trainer.runs import duration_estimates, lifecycle, queue_order  # noqa: E402
from trainer.runs.history import ENDED, STATES  # noqa: E402
from trainer.runs.run import Run  # noqa: E402
from trainer.runs.store import RunStore  # noqa: E402
from trainer.service import data, exports, planning  # noqa: E402

REPEATS = 9
QUEUED = 500


def milliseconds(action: Callable[[], Any], repeats: int = REPEATS) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def queue(folder: Path, models: Path) -> None:
    """What the app does all the time with 500 queued runs, against the same with one."""
    columns = []
    for count in (1, QUEUED):
        bench = Bench(folder / f"queue-{count}", models)
        runs = [bench.create(steps=2) for _ in range(count + 1)]
        columns.append(_queue_figures(bench, runs))
        bench.close()
    print(f"| queued runs | 1 | {QUEUED} | ratio |\n|---|---|---|---|")
    for what, alone in columns[0].items():
        print(f"| {what} | {alone:.1f} ms | {columns[1][what]:.1f} ms | {columns[1][what] / alone:.1f} |")


def _queue_figures(bench: Bench, runs: list[Run]) -> dict[str, float]:
    from ui.panels import live_run

    lab, folder = bench.lab, bench.lab.store.folder

    def check() -> None:
        waiting = [run for run in lab.store.open_runs() if run.can_start]
        waiting.sort(key=lambda run: (queue_order.place(run.folder), run.id))

    figures = {
        "list, a new process": milliseconds(lambda: RunStore(folder).summaries()),
        "list, again": milliseconds(lab.store.summaries),
        "refresh of the page": milliseconds(lambda: live_run.refresh(lab, runs[-1].id, "")),
        "the scheduler's check": milliseconds(check),
        "put first": milliseconds(lambda: lifecycle.put_first(lab.store, runs[-1].id), 3),
    }
    lifecycle.put_first(lab.store, runs[0].id)
    app = bench.app()
    bench.until(runs[0], "finished")
    ended = bench.run(runs[0]).history.changed
    second = next(run for run in runs if run.id == runs[-1].id)
    started = wait_for(lambda: bench.run(second).history.changed if starts_of(second) else 0)
    app.kill()
    figures["from one run's end to the start of the next"] = (started - ended) * 1000
    return figures


def disk(folder: Path, models: Path) -> None:
    """Fill the disk, then try everything that writes; nothing may be left behind, and it works again afterwards."""
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)], check=True)
    try:
        _fill_and_try(Bench(place, models), place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _fill_and_try(bench: Bench, place: Path) -> None:
    from tests.faults.test_memory_and_disk import fill

    lab = bench.lab
    finished = bench.create(steps=2, state="starting")
    assert bench.worker(finished).wait() == 0
    ended = bench.create()
    lifecycle.stop_run(ended)
    config = bench.run(finished).config
    assert config is not None
    plan = planning.plan(lab, config)
    experiments = {
        "data upload": lambda: data.keep_data(_rows(place), lab.settings.data_dir),
        "data cache": lambda: data.report(lab, config),
        "plan": lambda: planning.plan(lab, config),
        "queueing": lambda: lab.store.create(config, plan),
        "resume": lambda: lifecycle.resume_run(bench.run(ended)),
        "train longer": lambda: lifecycle.resume_run(bench.run(finished), epochs=1),
        "rename": lambda: lab.store.rename(finished.id, "another name"),
        "own scenarios": lambda: lab.own_sets.add("mine", "one", config.modules),
        "experiment": lambda: _experiment(bench, config),
        "adapter zip": lambda: exports.adapter(lab, finished.id),
        "report": lambda: exports.report(lab, [finished.id]),
        "index and list": lambda: RunStore(lab.store.folder).summaries(),
    }
    filling = fill(place)
    before = sorted(str(path) for path in place.rglob("*"))
    for name, action in experiments.items():
        print(f"{name:16} {_said(action)}", flush=True)
        new = [
            path for path in place.rglob("*") if str(path) not in before and path.is_file() and path.stat().st_size
        ]
        assert not new, new
    filling.unlink()
    for name, action in experiments.items():
        assert _said(action) == "done", name
    print("afterwards, with room again: everything done")


def _rows(place: Path) -> Path:
    rows = place.parent / "other.jsonl"
    tiny.save_rows(rows, 400)
    return rows


def _experiment(bench: Bench, config: Any) -> object:
    from trainer.service import experiments

    return experiments.start(bench.lab, config, experiments.Request("six"))


def _said(action: Callable[[], Any]) -> str:
    try:
        action()
    except UserError as error:
        return str(error)
    return "done"


def set_clock(jumps: tuple[float, ...], every: float) -> None:
    """Runs in a worker's process: its clock jumps by one of these seconds every so often."""
    real, started = time.time, time.monotonic()

    def now() -> float:
        number = int((time.monotonic() - started) / every)
        return real() + sum(jumps[: number + 1])

    time.time = now


def clock(folder: Path, models: Path) -> None:
    """Ten years ahead, twenty back, and so on: order, durations and estimates stay those of the machine."""
    from ui.views import run_progress

    bench = Bench(folder / "clock", models)
    years = 365.25 * 86400
    jumps = (0.0, 10 * years, -20 * years, 10 * years, 3600.0, -7200.0)
    run = bench.create(steps=4000, state="starting")
    worker = bench.worker(run, partial(set_clock, jumps, 1.5))
    started, seen = time.monotonic(), []
    while worker.poll() is None and time.monotonic() - started < 60:
        history = bench.run(run).history
        seen.append((history.elapsed(), history.remaining() or 0.0, history.idle()))
        assert "year" not in run_progress.status(bench.run(run), history.state)
        time.sleep(0.2)
    lifecycle.stop_run(bench.run(run))
    worker.wait()
    wall = time.monotonic() - started
    steps = bench.run(run).history.train.curve("loss")[0].tolist()
    assert steps == sorted(steps)
    assert all(0 <= elapsed <= wall and 0 <= idle <= wall for elapsed, _, idle in seen), seen
    assert [elapsed for elapsed, _, _ in seen] == sorted(elapsed for elapsed, _, _ in seen)
    assert all(0 <= left < 3600 for _, left, _ in seen)
    config = bench.run(run).config
    assert config is not None
    estimate = duration_estimates.seconds(config, duration_estimates.paces(bench.lab.store, config.model))
    assert estimate is None or 0 < estimate < 3600, estimate
    elapsed, left, idle = (max(column) for column in zip(*seen, strict=True))
    print(f"{len(jumps)} jumps of up to 20 years in {wall:.0f} s: {len(steps)} steps in order; elapsed at most")
    print(f"{elapsed:.1f} s, left at most {left:.0f} s, since the last event at most {idle:.1f} s; the estimate of")
    print(f"the next run is {estimate} s")
    bench.close()


OPERATIONS = ("stop", "stop", "resume", "resume", "delete", "list", "first")


def _attack(runs_dir: str, ids: list[str], seed: int, seconds: float, done: Any, broken: Any) -> None:
    chance, store, until = random.Random(seed), RunStore(Path(runs_dir)), time.monotonic() + seconds
    while time.monotonic() < until:
        run_id, what = chance.choice(ids), chance.choice(OPERATIONS)
        try:
            if what == "list":
                assert all(row["state"] in STATES for row in store.summaries())
            elif what == "delete":
                store.delete(chance.choice(ids[:2]))  # the others survive
            elif what == "first":
                lifecycle.put_first(store, run_id)
            else:
                change: Callable[[Run], Any] = lifecycle.stop_run if what == "stop" else lifecycle.resume_run
                change(store.get(run_id))
            done.put(what)
        except UserError:
            done.put(f"{what}, refused with a sentence")
        except BaseException:
            broken.put(f"{what}: {traceback.format_exc()}")
        time.sleep(chance.uniform(0, 0.3))


def races(folder: Path, models: Path, seconds: float = 60) -> None:
    """Four processes stop, resume and delete the same five runs at random, while an app starts them."""
    bench = Bench(folder / "races", models)
    runs = [bench.create(steps=600, save_steps=20) for _ in range(5)]
    app = bench.app()
    context = multiprocessing.get_context("fork")  # they need not import torch again
    done, broken = context.Queue(), context.Queue()
    ids = [run.id for run in runs]
    attackers = [
        context.Process(target=_attack, args=(str(bench.lab.store.folder), ids, seed, seconds, done, broken))
        for seed in range(4)
    ]
    for attacker in attackers:
        attacker.start()
    counts: Counter[str] = Counter()
    while any(attacker.is_alive() for attacker in attackers):
        while not done.empty():
            counts[done.get()] += 1
        time.sleep(0.1)
    failures = [broken.get() for _ in range(broken.qsize())]
    for run in [run for run in runs if run.folder.is_dir()]:
        while bench.state(run) not in ENDED:
            lifecycle.stop_run(bench.run(run))
            time.sleep(0.5)
    _consistent(bench, runs)
    assert app.poll() is None
    print(f"{sum(counts.values())} operations in {seconds:.0f} s by 4 processes: {dict(counts)}")
    print(f"tracebacks: {len(failures)}; left: {Counter(row['state'] for row in bench.lab.store.summaries())}")
    bench.close()
    assert not failures, failures[0]


def _consistent(bench: Bench, runs: list[Run]) -> None:
    """Every run is gone, or ended, unlocked, with whole events; no folder is left half deleted."""
    wait_for(lambda: all(file_locks.holder(run.folder / "lock") is None for run in runs), 30)
    for run in runs:
        if run.folder.is_dir():
            bench.holds(run)
            assert bench.state(run) in ENDED
            assert not bench.run(run).history.rows_lost
    assert not list(bench.lab.store.folder.glob(".deleted-*"))


def apps(folder: Path, models: Path) -> None:
    """Two apps: one schedules, every run starts once; when it is killed, the other one takes over."""
    bench = Bench(folder / "apps", models)
    first, second = bench.app(), bench.app()
    runs = [bench.create(steps=4) for _ in range(4)]
    bench.until(runs[0], "finished")
    holder = file_locks.holder(bench.lab.store.folder / ".supervisor")
    assert holder in (first.pid, second.pid)
    os.kill(holder, signal.SIGKILL)
    killed = time.monotonic()
    other = ({first.pid, second.pid} - {holder}).pop()
    wait_for(lambda: file_locks.holder(bench.lab.store.folder / ".supervisor") == other)
    took = time.monotonic() - killed
    for run in runs:
        wait_for(partial(_has_ended, bench, run))
    starts = [starts_of(run) for run in runs]
    assert max(starts) == 1, starts
    print(
        f"4 runs, starts of each: {starts}, states: {[bench.state(run) for run in runs]}; the scheduler was killed,"
    )
    print(f"the other app took over after {took:.1f} s")
    bench.close()


def _has_ended(bench: Bench, run: Run) -> bool:
    return bench.state(run) in ENDED


def readonly(folder: Path, models: Path) -> None:
    """A models folder on a read-only disk trains; a runs folder on one is refused in one sentence."""
    for what in ("models", "runs"):
        place = folder / f"readonly-{what}"
        place.mkdir()
        (place / "models").mkdir()
        (place / "runs").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", str(place / what)], check=True)
        tiny.save_model(place / "models" / "phi3", "phi3")
        subprocess.run(["mount", "-o", "remount,ro", str(place / what)], check=True)
        try:
            if what == "models":
                bench = Bench(place, place / "models")
                run = bench.create(steps=2, state="starting")
                assert bench.worker(run).wait() == 0
                print(f"read-only models folder: the run is {bench.state(run)}")
            else:
                command = [sys.executable, "app.py", "--runs-dir", str(place / "runs"), "--port", "7999"]
                ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
                assert ended.returncode == 2, ended
                assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
                print(f"read-only runs folder: {ended.stderr.strip().replace(str(place), '…')}")
        finally:
            subprocess.run(["umount", "-l", str(place / what)], check=True)


TRIALS = {trial.__name__: trial for trial in (queue, disk, clock, races, apps, readonly)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=TRIALS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LAB_DEVICE_LOCKS"] = f"{folder}/locks"
        models = Path(folder) / "models"
        tiny.save_model(models / "phi3", "phi3")
        TRIALS[options.trial](Path(folder), models)


if __name__ == "__main__":
    main()
