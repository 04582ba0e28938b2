"""Experiments: runs that differ in ticks and seeds alone, queued, stopped and resumed as one."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.lab import open_lab, small_config
from trainer.cli.main import main
from trainer.common import file_locks
from trainer.common.errors import InvalidConfig, UserError
from trainer.config.schema import RunConfig, Tick
from trainer.experiments.experiment import MAX_SEEDS
from trainer.experiments.experiment_file import Experiment
from trainer.planning.schedule import Size, total_steps
from trainer.runs import duration_estimates, event_log
from trainer.service import data, exports, runs
from trainer.service.experiments import Request, compare, plan_scenarios, resume, seconds, start
from trainer.service.lab import Lab


@pytest.fixture
def lab(tmp_path: Path, models_dir: Path) -> Iterator[Lab]:
    lab = open_lab(tmp_path, models_dir)
    for name in ("o_proj", "down_proj"):
        lab.own_sets.add("two", name, (Tick(name),))
    yield lab
    lab.close()
    for run in lab.store.all():
        process = file_locks.holder(run.folder / "lock")
        if process:
            os.kill(process, signal.SIGKILL)


@pytest.fixture
def config(lab: Lab, tmp_path: Path) -> RunConfig:
    return small_config(lab.settings.data_dir, tmp_path / "rows.jsonl", steps=4)


def states(lab: Lab, made: Experiment) -> list[str]:
    return lab.experiments.states(made)


def folders(lab: Lab) -> list[str]:
    """How the command line is told of the lab's folders."""
    return ["--runs-dir", str(lab.settings.runs_dir), "--models-dir", str(lab.settings.models_dir)]


def test_runs_differ_in_ticks_and_seed_alone(lab: Lab, config: RunConfig) -> None:
    made = start(lab, config, Request("two", seeds=3, name=" A <b>name</b>\n"))
    assert made.name == "A <b>name</b>"
    assert [(member.scenario, member.seed) for member in made.members] == [
        (name, seed) for seed in (42, 43, 44) for name in ("o_proj", "down_proj")
    ]
    queue = [run.id for run in sorted(lab.store.open_runs(), key=lambda run: int((run.folder / "place").read_text()))]
    assert tuple(queue) == made.runs
    for member in made.members:
        found = lab.store.get(member.run).config
        assert found is not None
        assert found == replace(
            config,
            title=f"{member.scenario} · seed {member.seed}",
            modules=(Tick(member.scenario),),
            training=replace(config.training, seed=member.seed),
        )
    assert lab.experiments.get(made.id) == made
    assert lab.experiments.summary(made)["state"] == "queued"
    assert lab.experiments.summary(made)["remaining"] is None, "nothing has run yet"


def test_stop_and_resume_as_one_and_what_is_missing_is_made_again(
    lab: Lab, config: RunConfig, tmp_path: Path
) -> None:
    made = start(lab, config, Request("two", seeds=2))
    assert "4 runs" in runs.stop(lab, made.id)
    assert states(lab, made) == ["stopped"] * 4
    shutil.rmtree(lab.store.folder / made.runs[1])
    assert states(lab, made)[1] == "not made"
    assert any("are missing" in line for line in compare(lab, [made.id])[0].warnings)
    other = open_lab(tmp_path, lab.settings.models_dir)
    assert resume(other, made.id).startswith("4 runs")
    assert resume(other, made.id).startswith("0 runs")
    again = lab.experiments.get(made.id)
    assert states(lab, again) == ["queued"] * 4
    assert [old == new for old, new in zip(made.runs, again.runs, strict=True)] == [True, False, True, True]
    found = lab.store.get(again.runs[1]).config
    assert found is not None
    assert found.modules == (Tick("down_proj"),)


def test_from_the_command_line_to_a_report_and_an_estimate(
    lab: Lab, config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = replace(config, training=replace(config.training, max_steps=6))
    found = plan_scenarios(lab, longer, Request("two"))
    assert seconds(lab, longer, found, Request("two", seeds=2)) is None
    (tmp_path / "run.json").write_text(json.dumps(longer.to_json()))
    assert main([*folders(lab), "scenarios", str(tmp_path / "run.json"), "--set", "two", "--rates", "1"]) == 0
    told = capsys.readouterr().out
    assert "3 of 3 layers" in told.partition("2 runs, duration")[0]
    assert told.count("finished    ") == 2
    (made,) = lab.experiments.all()
    assert states(lab, made) == ["finished"] * 2
    compared, experiment = compare(lab, [made.id])
    assert experiment == made
    assert [group.name for group in compared.groups] == ["o_proj", "down_proj"]
    assert "lowest" in compared.verdict[0]
    assert (
        compared.rows[0].adapter_bytes
        == (lab.store.get(made.runs[0]).adapter / "adapter_model.safetensors").stat().st_size
    )
    assert exports.report(lab, [made.id]).parent == lab.settings.exports_dir
    needed, one = (seconds(lab, longer, found, Request("two", seeds=count)) for count in (2, 1))
    assert needed and one
    assert needed == pytest.approx(2 * one)
    (pace, *_) = known = duration_estimates.paces(lab.store, longer.model)[:1]
    assert pace.size.examples == 56
    sizes = (Size(56, length) for length in (100.0, 300.0))
    short, long = (duration_estimates.seconds(longer, known, size) or 0 for size in sizes)
    assert long - short == pytest.approx(6 * 4 * 200 * pace.seconds)
    whole = replace(longer, training=replace(longer.training, max_steps=-1))
    assert total_steps(whole.training, pace.size.examples) == 14
    rows = tiny.save_rows(tmp_path / "others.jsonl", 24)
    others = replace(whole, data=replace(whole.data, path=data.add(lab, rows)))
    found = plan_scenarios(lab, others, Request("two"))
    assert seconds(lab, others, found, Request("two")) is None
    data.report(lab, others)
    assert seconds(lab, others, found, Request("two")), "what was looked at is known to take so long"
    orders = [
        [
            event["tokens"]
            for event in event_log.read(lab.store.get(run).folder / "events.jsonl")[0]
            if event["type"] == "metrics"
        ]
        for run in made.runs
    ]
    assert orders[0] == orders[1], "the same examples in the same order"


def test_what_cannot_be_is_refused_and_leaves_nothing(lab: Lab, config: RunConfig) -> None:
    for number in (0, -1, MAX_SEEDS + 1):
        with pytest.raises(UserError, match="between 1 and"):
            start(lab, config, Request("two", seeds=number))
    with pytest.raises(UserError, match="no set"):
        start(lab, config, Request("../two"))
    with pytest.raises(UserError, match="None of these"):
        start(lab, replace(config, training=replace(config.training, max_length=9999)), Request("two"))
    with pytest.raises(InvalidConfig):
        start(lab, replace(config, training=replace(config.training, seed=2**32 - 1)), Request("two", seeds=2))
    with pytest.raises(InvalidConfig, match="no data file"):
        start(lab, replace(config, data=replace(config.data, path="gone.jsonl")), Request("two"))
    assert lab.store.ids() == lab.experiments.ids() == []
    for act in (lab.experiments.get, partial(resume, lab), lab.experiments.stop):
        with pytest.raises(UserError, match="no experiment"):
            act("../config")


def test_a_damaged_file_says_so_and_hides_nothing_else(lab: Lab, config: RunConfig) -> None:
    made = start(lab, config, Request("two"))
    path = lab.store.folder / "experiments" / f"{made.id}.json"
    value = json.loads(path.read_text())
    bad = path.with_name("exp-20260101-000000-000000.json")
    changes: tuple[dict[str, Any], ...] = (
        {"members": [{"scenario": "o_proj", "seed": 1, "run": "../x"}]},
        {"members": None},
        {"scenarios": []},
        {"scenarios": [item | {"config": {"schema": 99}} for item in value["scenarios"]]},
    )
    for change in changes:
        bad.write_text(json.dumps(value | change))
        with pytest.raises(UserError, match="damaged"):
            lab.experiments.get(bad.stem)
        assert lab.experiments.all() == [made]


def test_the_command_line_lists_compares_and_writes_reports(
    lab: Lab, config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = start(lab, config, Request("two", seeds=2))
    places = folders(lab)
    assert main([*places, "stop", made.id]) == 0
    assert main([*places, "experiments", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2])[0]["state"] == "stopped"
    assert main([*places, "compare", made.id, "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    files = ["--html", str(tmp_path / "r.html"), "--markdown", str(tmp_path / "r.md")]
    assert main([*places, "compare", *made.runs, *files]) == 0
    assert (tmp_path / "r.html").stat().st_size > 4e6
    assert "not in the verdict" in (tmp_path / "r.md").read_text()
    assert main([*places, "compare", "nothing"]) == 2
    assert "no run" in capsys.readouterr().err
