"""Runs side by side: verdicts with intervals, prices, differences, CSV, report. The figures are written by hand."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from trainer.common.errors import UserError
from trainer.config.schema import ModelConfig, RunConfig, Tick, TrainingConfig
from trainer.experiments import charts
from trainer.experiments.comparison import Comparison, compare
from trainer.experiments.report import document, markdown
from trainer.experiments.report_html import html_report, report_zip
from trainer.experiments.statistics import pareto
from trainer.experiments.verdict import Criteria
from trainer.models.discovery.discover import discover
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import make_plan
from trainer.runs import row_losses, samples
from trainer.runs.event_log import EventWriter
from trainer.runs.store import RunStore
from ui.views import comparison

EVIL = "=<script>alert(1)</script> | `x` %{y} \\ *b*"
BASE = RunConfig(model=ModelConfig(quantization="none"), training=TrainingConfig(max_length=64))


@pytest.fixture(scope="module")
def module_map() -> ModuleMap:
    return phi3_map()


@cache
def phi3_map() -> ModuleMap:
    return discover(tiny.config("phi3"), "phi3")


def add_run(
    store: RunStore,
    title: str,
    ticks: tuple[str, ...],
    seed: int,
    loss: float,
    steps: int = 40,
) -> str:
    """A finished run of `steps` steps whose eval loss ends at `loss`."""
    training = replace(BASE.training, seed=seed)
    config = replace(BASE, title=title, modules=tuple(map(Tick, ticks)), training=training)
    run = store.create(config, make_plan(config, phi3_map()))
    writer = EventWriter(run.folder / "events.jsonl")
    writer.write("state", state="running", steps=steps, examples=64)
    for step in range(1, steps + 1):
        figures = {"tokens": step * 100.0, "tokens_per_second": 50.0, "memory": 10**9, "elapsed": step * 2.0}
        writer.write("metrics", step=step, loss=loss + 1 / step, **figures)
        if step % 10 == 0:
            writer.write("eval", step=step, eval_loss=loss + (steps - step) / 100, perplexity=2.0)
    writer.write("state", state="finished")
    writer.close()
    return run.id


def three_against_three(store: RunStore, worse: list[float]) -> Comparison:
    ids = []
    for seed, (good, bad) in enumerate(zip([1.0, 1.1, 1.2], worse, strict=True)):
        ids.append(add_run(store, "Big", ("q_proj", "o_proj", "down_proj"), seed, good))
        ids.append(add_run(store, "Small", ("o_proj",), seed, bad))
    return compare(store, ids)


def test_the_pareto_front_holds_what_nothing_beats() -> None:
    points = {"cheap": (1.0, 3.0), "worse": (2.0, 3.0), "middle": (2.0, 2.0), "best": (5.0, 1.0), "dear": (9.0, 1.0)}
    assert pareto(points) == ["cheap", "middle", "best"]


def test_a_real_difference_and_its_price(tmp_path: Path) -> None:
    found = three_against_three(RunStore(tmp_path), [1.5, 1.61, 1.69])
    assert [group.name for group in found.groups] == ["Big", "Small"]
    assert found.verdict[0].startswith("Big") and "1.1000" in found.verdict[0] and "3 seeds" in found.verdict[0]
    assert "Big beats Small" in found.verdict[1] and "0.500 ± 0.025" in found.verdict[1]
    assert found.front("trainable") == ["Small", "Big"]
    assert set(found.differences) == {"modules"}
    assert found.differences["modules"] == ["LoRA q_proj, o_proj, down_proj", "LoRA o_proj"]
    assert not found.warnings
    assert found.rows[0].tokens_per_second == 50
    assert found.rows[0].elapsed == 80


def test_no_difference_shown_is_not_equivalence(tmp_path: Path) -> None:
    found = three_against_three(RunStore(tmp_path), [1.05, 1.05, 1.28])
    assert "no difference shown" in found.verdict[1]
    assert not any("Take" in line for line in found.verdict)


def test_of_equivalent_scenarios_the_cheapest_is_named(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    ids = [row.id for row in three_against_three(store, [1.001, 1.101, 1.2015]).rows]
    found = compare(store, ids, criteria=Criteria(cost="trainable"))
    assert any("Take Small" in line and "69 % less trainable parameters" in line for line in found.verdict)
    assert any("Take Big" in line for line in compare(store, ids, criteria=Criteria(cost="elapsed")).verdict)
    strict = compare(store, ids, criteria=Criteria(margin=0.0001, cost="trainable"))
    assert not any("Take" in line for line in strict.verdict)


def test_task_scores_and_forgetting_stand_beside_the_loss(tmp_path: Path) -> None:
    """One scenario has the lower loss, the other answers better and forgets less."""
    store = RunStore(tmp_path)
    ids = [row.id for row in three_against_three(store, [1.5, 1.61, 1.69]).rows]
    found = compare(store, ids)
    assert "exact_match" not in found.columns and "By exact match" not in " ".join(found.verdict)
    for row in found.rows:
        big, ones = row.group == "Big", np.ones(40)
        wrong = (np.arange(40) < (20 if big else 4) + row.seed % 2).astype(float)
        record = partial(row_losses.record, store.get(row.id).folder, examples="same", tokens=ones)
        for name in (row_losses.EXACT_MATCH, row_losses.CONTAINS):
            record(name=name, step=40, losses=wrong)
        record(name=row_losses.GENERAL, step=0, losses=ones)
        record(name=row_losses.GENERAL, step=40, losses=ones * (1.3 if big else 0.9))
    found = compare(store, ids)
    assert {"exact_match", "contains", "forgetting"} < found.columns.keys()
    said = " ".join(found.verdict)
    assert "Big beats Small" in said
    assert "By exact match, Small is best: 89 %. It beats Big." in said
    assert "the loss of Big rises by 0.3000; that of Small falls by 0.1000" in said
    text = markdown(document(store, found))
    assert "+0.3000" in text and "49.2 %" in text


def test_losses_on_other_data_are_not_judged(tmp_path: Path, module_map: ModuleMap) -> None:
    store = RunStore(tmp_path)
    first = add_run(store, "A", ("o_proj",), 1, 1.0)
    config = replace(BASE, title="B", data=replace(BASE.data, eval_fraction=0.3), modules=(Tick("o_proj"),))
    second = store.create(config, make_plan(config, module_map))
    writer = EventWriter(second.folder / "events.jsonl")
    writer.write("metrics", step=40, loss=1.0)
    writer.write("eval", step=40, eval_loss=2.0)
    writer.write("state", state="finished")
    writer.close()
    found = compare(store, [first, second.id])
    assert any("data differs" in line for line in found.warnings)
    assert not found.verdict and not found.pairs


def test_what_does_not_compare_is_named(tmp_path: Path, module_map: ModuleMap) -> None:
    store = RunStore(tmp_path)
    first = add_run(store, "A", ("o_proj",), 1, 1.0)
    second = add_run(store, "B", ("down_proj",), 1, 2.0, steps=20)
    config = replace(BASE, title="C", model=replace(BASE.model, name="other"), modules=(Tick("o_proj"),))
    queued = store.create(config, make_plan(config, module_map)).id
    found = compare(store, [first, second, queued, first])
    assert len(found.rows) == 3
    told = " ".join(found.warnings)
    assert "C (queued)" in told
    assert "model differs" in told
    assert "steps: 20, 40" in told
    assert "run 3 seeds" in " ".join(found.verdict)
    with pytest.raises(UserError, match="no run"):
        compare(store, [first, "../../etc"])


def test_curves_over_steps_tokens_and_time_stay_small(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    ids = [add_run(store, EVIL, (name,), 1, 1.0, 3000) for name in ("o_proj", "down_proj")]
    found = compare(store, ids)
    for axis, last in (("step", 3000), ("tokens", 300_000), ("elapsed", 6000)):
        figure = charts.curves_figure(store, found, "loss", axis, 15)
        assert [trace["x"][-1] for trace in figure["data"]] == [last, last]
        assert sum(len(trace["x"]) for trace in figure["data"]) <= charts.MAX_POINTS * 1.01
        assert figure["data"][0]["name"].startswith("=&lt;script")
        assert "%{y}" not in figure["data"][0]["hovertemplate"].partition("<extra>")[2]
    evals = charts.curves_figure(store, found, "eval_loss", "tokens")["data"][0]
    assert evals["x"][0] == 1000


def test_the_page_shows_foreign_titles_as_text(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    found = compare(store, [add_run(store, f"{EVIL}{name}", (name,), 1, 1.0) for name in ("o_proj", "x")])
    item = {"title": EVIL, "note": EVIL, "trainable": 1, "budget": EVIL, "issues": [{"problem": EVIL, "fix": EVIL}]}
    item["receipts"] = [{"tick": EVIL, "treatment": EVIL, "note": EVIL, "matched": 0}]
    summary = {"name": EVIL, "question": EVIL, "state": EVIL, "finished": 1, "runs": 2, "remaining": 3.0, "id": EVIL}
    shown = [comparison.head(found, summary), comparison.details(found, None), comparison.scenario(item)]
    shown += [comparison.scenario({"title": EVIL, "same_as": EVIL}), comparison.notice(UserError(EVIL, EVIL))]
    assert all("&lt;script&gt;" in part and "<script" not in part for part in shown)


def test_csv_reads_back_and_is_no_formula(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    found = compare(store, [add_run(store, EVIL, ("o_proj",), 7, 1.25)])
    (row,) = csv.DictReader(io.StringIO(found.to_csv()))
    assert row["Run"] == f"'{EVIL}"
    assert (row["Seed"], float(row["Final eval loss"]), row["Steps"]) == ("7", 1.25, "40")
    json.dumps(found.to_json(), allow_nan=False)


def add_samples(folder: Path) -> None:
    writer = EventWriter(folder / samples.FILE)
    writer.write("prompts", prompts=[{"text": EVIL, "before": "", "reference": EVIL}])
    for step, text in ((0, EVIL), (40, "The last answer")):
        writer.write("answers", step=step, answers=[{"text": text, "ended": True}], tokens=3, seconds=0.1)
    writer.close()


def test_the_report_holds_everything_and_no_foreign_markup(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    ids = [add_run(store, title, (name,), 1, loss) for title, name, loss in
           ((EVIL, "o_proj", 1.0), ("Plain", "down_proj", 2.0))]  # fmt: skip
    for run_id in ids:
        add_samples(store.get(run_id).folder)
    found = compare(store, ids)
    page = html_report(store, found)
    assert "<script>alert" not in page
    assert "plotly.js v" in page[: 10**6]
    assert 'src="' not in page.partition("<script>")[0]
    parts = (
        "Samples",
        "The last answer",
        "lowest held-out loss",
        "Results",
        "Match reports",
        "3 of 3 layers",
        "learning_rate",
    )
    for part in (*parts, "transformers", ids[0]):
        assert part in page
    text = markdown(document(store, found))
    assert "\\<script\\>" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    assert str(tmp_path) not in page + text
    (tmp_path / "exports").mkdir()
    assert report_zip(store, found, None, tmp_path / "exports").suffix == ".zip"
    with pytest.raises(UserError, match="no run"):
        report_zip(store, compare(store, []), None, tmp_path / "exports")
