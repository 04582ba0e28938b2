"""Runs folders as faults leave them: torn rows, clocks set back, unknown schemas, many runs."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time

import pytest

from tests.faults.bench import Bench
from tests.runs import damage
from tests.support.lab import wait_for
from trainer.common import file_locks
from trainer.common.errors import UserError
from trainer.runs import event_log, lifecycle
from trainer.runs.store import RunStore


def test_a_torn_last_event_is_passed_over_and_cut_off(bench: Bench) -> None:
    run = bench.create()
    bench.acknowledge(run)
    with (run.folder / "events.jsonl").open("ab") as file:
        file.write(b'{"type": "state", "state": "fini')
    bench.page_shows(run, "queued")
    bench.page_shows(run, "stopped", lifecycle.stop_run(bench.run(run)))
    assert all(json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines())


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_was_set_changes_no_state(hours: int, bench: Bench) -> None:
    """Events of two hours ago or ahead: what a worker wrote before the clock was set."""
    run = bench.create()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=run.folder) as process:
        row = {"type": "state", "time": time.time() + hours * 3600, "state": "starting"}
        row["worker"] = file_locks.identity(process.pid)
        with (run.folder / "events.jsonl").open("ab") as file:
            file.write(event_log.encode(row))
        assert bench.state(run) == "starting", "its worker lives"
        process.kill()
        process.wait()
        bench.page_shows(run, "interrupted")
    lifecycle.resume_run(bench.run(run))
    bench.page_shows(run, "queued")


def test_the_queue_keeps_its_order_when_the_clock_is_set_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.create()
    monkeypatch.setattr("trainer.runs.store.time.strftime", lambda _: "20010203-040506")
    second = bench.create()
    assert second.id < first.id
    assert int((first.folder / "place").read_text()) < int((second.folder / "place").read_text())


def test_damaged_folders_and_an_unknown_schema_are_shown_and_left_alone(bench: Bench) -> None:
    run, locked, fifo, fine = (bench.create() for _ in range(4))
    damage.directory(locked.folder / "lock", random.Random())
    damage.fifo(fifo.folder / "events.jsonl", random.Random())
    config = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps(config | {"schema": 99}))
    os.truncate(fine.folder / "plan.json", 3)
    bench.lab = type(bench.lab)(bench.lab.settings)
    before = (run.folder / "events.jsonl").read_bytes()
    bench.app()
    bench.until(fine, "starting")
    rows = {row["id"]: row for row in bench.lab.store.summaries()}
    assert rows[run.id]["state"] == "failed"
    assert "99" in rows[run.id]["message"]
    assert rows[locked.id]["message"].startswith("lock is a directory")
    assert rows[fifo.id]["message"].startswith("events.jsonl is a FIFO")
    with pytest.raises(UserError, match="99"):
        lifecycle.resume_run(bench.run(run))
    assert (run.folder / "events.jsonl").read_bytes() == before
    bench.lab.store.delete(run.id)
    assert not run.folder.exists()


def test_a_hundred_runs_list_and_every_change_is_seen(bench: Bench) -> None:
    runs = [bench.create() for _ in range(100)]
    for number, run in enumerate(runs):
        lifecycle.record(run, ["queued"], ("finished", "stopped", "failed")[number % 3], message=f"end {number}")
    store = RunStore(bench.lab.store.folder)
    assert len(store.summaries()) == 100
    again = RunStore(store.folder)
    started = time.perf_counter()
    rows = again.summaries()
    assert time.perf_counter() - started < 1
    assert rows == store.summaries() == [run.summary() for run in store.all()]
    again.rename(runs[7].id, "another name")
    lifecycle.resume_run(again.get(runs[8].id), epochs=1)
    store.delete(runs[9].id)
    for reader in (again, store, RunStore(store.folder)):
        by_id = {row["id"]: row for row in reader.summaries()}
        assert len(by_id) == 99
        assert by_id[runs[7].id]["name"] == "another name"
        assert by_id[runs[8].id]["state"] == "queued"
        assert [run.id for run in reader.open_runs()] == [runs[8].id]


@pytest.mark.parametrize("junk", ["", "[]", '{"code": 1}', '{"code": "x", "runs": []}', "\x00"])
def test_a_broken_index_is_made_anew(junk: str, bench: Bench) -> None:
    run = bench.create()
    lifecycle.record(run, ["queued"], "finished")
    (bench.lab.store.folder / ".index.json").write_text(junk)
    assert [row["state"] for row in RunStore(bench.lab.store.folder).summaries()] == ["finished"]


def test_two_writers_never_mix_their_events(bench: Bench) -> None:
    """Four processes stop the same queued run: one of them does it, the others are told so."""
    run = bench.create()
    code = (
        "import sys, pathlib\nfrom trainer.runs import lifecycle\nfrom trainer.runs.store import RunStore\n"
        "print(lifecycle.stop_run(RunStore(pathlib.Path(sys.argv[1])).get(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, str(run.folder.parent), run.id]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [process.communicate()[0].strip() for process in processes]
    assert sorted("already stopped" in answer for answer in answers) == [False, *[True] * 3], answers
    assert len((run.folder / "events.jsonl").read_text().splitlines()) == 2
    wait_for(lambda: bench.state(run) == "stopped")
