"""A damaged run folder or experiment shows itself with its reason, and changes nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs import damage
from trainer.common.errors import UserError
from trainer.config import validation
from trainer.experiments import report_html
from trainer.experiments.report import document, markdown
from trainer.runs.store import CACHED_RUNS, RunStore
from trainer.service import exports, runs
from trainer.service.experiments import compare
from trainer.service.lab import Lab, Settings
from ui.panels import live_run
from ui.tabs import runs as runs_tab
from ui.tabs.compare import CompareTab

IDS = ("20260101-000000-aaaaaa", "20260101-000001-bbbbbb", "20260101-000002-cccccc")
EXPERIMENTS = ("exp-20260101-000000-aaaaaa", "exp-20260101-000001-bbbbbb")
SECONDS, BYTES = 3.0, 400_000_000
"""What one damaged file may cost at most, on a busy machine."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with three finished runs and two experiments."""
    folder = tmp_path_factory.mktemp("whole") / "runs"
    for seed, run_id in enumerate(IDS):
        damage.finished_run(folder / run_id, f"Run {seed}", seed)
    (folder / "experiments").mkdir()
    for experiment_id in EXPERIMENTS:
        value = damage.experiment_of(list(IDS[1:]), experiment_id)
        (folder / "experiments" / f"{experiment_id}.json").write_text(json.dumps(value))
    return folder


def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy of the runs folder, with the same times, so that an index of it would be valid."""
    return Path(shutil.copytree(whole, tmp_path / "runs"))


def seen(folder: Path) -> dict[str, Any]:
    """Everything that lists, opens, compares and reports on the runs, for a page and for the command line."""
    lab = Lab(Settings(runs_dir=folder))
    rows = lab.store.summaries()
    json.dumps(rows, allow_nan=False).encode()
    lab.store.open_runs()
    for run_id in (*lab.store.ids(), ""):
        json.dumps(live_run.refresh(lab, run_id, ""), default=str).encode()
    for row in rows:
        assert runs_tab._row(row)
        with contextlib.suppress(UserError):
            runs_tab._facts(row, runs.general_loss(lab.store.get(row["id"])))
    compared, _ = compare(lab, lab.store.ids())
    compared.to_csv().encode()
    markdown(document(lab.store, compared)).encode()
    json.dumps(report_html._figures(lab.store, compared), allow_nan=False).encode()
    listed = lab.experiments.summaries()
    for row in listed:
        try:
            found, experiment = compare(lab, [row["id"]])
            markdown(document(lab.store, found, experiment)).encode()
            CompareTab._filled(_tab(lab), found, experiment, "eval_loss", "step", 1, "trainable")
        except UserError as error:
            assert str(error).strip()
    for run_id in lab.store.ids():
        with contextlib.suppress(UserError):
            exports.adapter(lab, run_id)
    json.dumps(lab.store.summaries(), allow_nan=False)
    return {row["id"]: row for row in (*rows, *listed)} | {"compared": {row.id: row for row in compared.rows}}


def _tab(lab: Lab) -> Any:
    tab = CompareTab.__new__(CompareTab)
    tab.lab = lab
    return tab


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check(folder: Path, before: dict[str, Any], name: str) -> dict[str, Any]:
    """The damaged run's row, after everything else was found unchanged within the limits."""
    memory, started = peak(), time.process_time()
    now = seen(folder)
    assert time.process_time() - started < SECONDS, name
    assert peak() - memory < BYTES, name
    for run_id in IDS[1:]:
        assert now[run_id] == before[run_id], name
        assert now["compared"][run_id] == before["compared"][run_id], name
    return dict(now[IDS[0]])


@pytest.fixture(scope="module")
def before(whole: Path) -> dict[str, Any]:
    return seen(whole)


@pytest.mark.parametrize("kind", dict.fromkeys(damage.DAMAGES), ids=lambda kind: kind.__name__)
def test_damaged_events_are_named_and_change_no_other_run(
    kind: damage.Damage, whole: Path, before: dict[str, Any], tmp_path: Path
) -> None:
    folder = copied(whole, tmp_path)
    kind(folder / IDS[0] / "events.jsonl", random.Random(1))
    row = check(folder, before, kind.__name__)
    if kind is damage.cut:  # like a worker that was killed: nothing else can be known
        assert row["state"] in ("interrupted", "failed")
    else:
        assert "events.jsonl" in row["message"] or row == before[IDS[0]]
    assert "\x1b" not in json.dumps(row, ensure_ascii=False)


@pytest.mark.parametrize("file", ["config.json", "plan.json", "title", "lock"])
def test_every_other_damaged_file_is_named(file: str, whole: Path, before: dict[str, Any], tmp_path: Path) -> None:
    for kind in dict.fromkeys(damage.DAMAGES) if file in ("config.json", "plan.json") else damage.FEW:
        folder = copied(whole, tmp_path)
        kind(folder / IDS[0] / file, random.Random(2))
        row = check(folder, before, f"{kind.__name__} of {file}")
        if file in ("config.json", "plan.json") and kind not in (damage.cut, damage.odd_values, damage.flipped):
            assert file in row["message"], kind.__name__
        assert len(row["name"]) <= 120
        assert row["name"].isprintable()
        RunStore(folder).delete(IDS[0])
        shutil.rmtree(folder)


def damaged_at_random(folder: Path, seed: int) -> str:
    """Damage one file of the first run or of the first experiment."""
    chance = random.Random(seed)
    file = chance.choice((*damage.FILES, "experiment"))
    path = folder / "experiments" / f"{EXPERIMENTS[0]}.json" if file == "experiment" else folder / IDS[0] / file
    kind = chance.choice(damage.DAMAGES)
    kind(path, chance)
    return f"seed {seed}: {kind.__name__} of {file}"


@pytest.mark.parametrize("seed", [*range(30), *(pytest.param(n, marks=pytest.mark.full) for n in range(30, 600))])
def test_damage_at_random_changes_nothing_else(
    seed: int, whole: Path, before: dict[str, Any], tmp_path: Path
) -> None:
    folder = copied(whole, tmp_path)
    name = damaged_at_random(folder, seed)
    check(folder, before, name)


def as_nobody(action: Callable[[], Any]) -> Any:
    """The JSON that `action` returns in a process of another user."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgid(65534)
            os.setuid(65534)
            os.write(writer, json.dumps(action()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        value = json.loads(answer.read())
    os.waitpid(child, 0)
    return value


def test_a_folder_of_another_user_shows_why(whole: Path, tmp_path: Path) -> None:
    """Really read by somebody else: root may read everything."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    folder = copied(whole, tmp_path)
    for path in (tmp_path, *tmp_path.parents, *folder.rglob("*"), folder):
        path.chmod(path.stat().st_mode | 0o055)
    (folder / IDS[0] / "events.jsonl").chmod(0)
    (folder / IDS[1]).chmod(0o700)
    rows = {row["id"]: row for row in as_nobody(lambda: RunStore(folder).summaries())}
    assert [rows[run_id]["state"] for run_id in IDS] == ["failed", "failed", "finished"]
    assert "permission denied" in rows[IDS[0]]["message"]
    assert "permission denied" in rows[IDS[1]]["message"]


def test_a_repaired_run_is_fine_again(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    store = RunStore(folder)
    good = store.summaries()
    for file in ("events.jsonl", "config.json", "plan.json"):
        path = folder / IDS[0] / file
        content = path.read_bytes()
        damage.directory(path, random.Random())
        assert file in store.summaries()[-1]["message"]
        path.rmdir()
        path.write_bytes(content)
        assert store.summaries() == good


def test_figures_that_are_cut_off_while_they_are_read_do_not_end_the_app(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path) / IDS[0]
    (folder / "metrics.f64").write_bytes(b"")
    script = """
import os, sys
from pathlib import Path
from trainer.runs import metrics_file
events = Path(sys.argv[1])
metrics_file.rebuild(events)
rows = metrics_file.load(events)
os.truncate(events.parent / metrics_file.FILE, 0)
print(len(rows), rows[-1, metrics_file.AT["step"]])
"""
    answer = subprocess.run(
        [sys.executable, "-c", script, str(folder / "events.jsonl")], capture_output=True, text=True, check=True
    )
    assert float(answer.stdout.split()[1]) > 0


def test_deleting_a_link_leaves_what_it_leads_to(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (folder / IDS[0]).rename(elsewhere)
    (folder / IDS[0]).symlink_to(elsewhere)
    store = RunStore(folder)
    assert store.summary(IDS[0])["state"] == "finished"  # type: ignore[index]
    store.delete(IDS[0])
    assert (elsewhere / "events.jsonl").is_file()
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".deleted")) == []


def test_queued_runs_are_not_opened_again_for_every_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than ended runs stay in memory: the scheduler looks at all of them every second."""
    store = RunStore(tmp_path)
    for number in range(CACHED_RUNS + 20):
        folder = tmp_path / f"20260101-000000-{number:06x}"
        damage.finished_run(folder)
        (folder / "metrics.f64").unlink()
        (folder / "events.jsonl").write_text('{"type": "state", "state": "queued"}\n')
    assert len(store.open_runs()) == len(store.summaries()) == CACHED_RUNS + 20
    read: list[Path] = []
    monkeypatch.setattr(validation, "load", read.append)
    store.summaries()
    assert len(store.open_runs()) == CACHED_RUNS + 20
    assert read == []
