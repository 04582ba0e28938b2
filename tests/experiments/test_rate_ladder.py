"""Learning-rate ladders: the runs of a scenario, which of them it is compared by, what its edges leave open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.lab import open_lab, small_config
from trainer.common.errors import UserError
from trainer.config.schema import RunConfig, Tick, TrainingConfig
from trainer.experiments.experiment_file import Experiment
from trainer.experiments.rate_ladder import FACTORS, Rung, ladder, parse
from trainer.runs.event_log import EventWriter
from trainer.service.experiments import Request, compare, plan_scenarios, seconds, start
from trainer.service.lab import Lab
from ui.views import comparison

TITLES = ("LoRA", "LoRA and head")
LORA, BOTH = (Tick("o_proj", lr=1e-3),), (Tick("o_proj"), Tick("lm_head", "full"))


@pytest.fixture
def lab(tmp_path: Path, models_dir: Path) -> Iterator[Lab]:
    lab = open_lab(tmp_path, models_dir)
    for title, ticks in zip(TITLES, (LORA, BOTH), strict=True):
        lab.own_sets.add("two", title, ticks)
    yield lab
    lab.close()


@pytest.fixture
def config(lab: Lab, tmp_path: Path) -> RunConfig:
    return small_config(lab.settings.data_dir, tmp_path / "rows.jsonl", steps=4)


def finish(lab: Lab, made: Experiment, losses: dict[tuple[str, float, float], float]) -> None:
    """Write what the workers would: eval losses by scenario and factors, a little different with each seed."""
    for member in made.members:
        writer = EventWriter(lab.store.folder / member.run / "events.jsonl")
        loss = losses[member.scenario, member.rate, member.full_rate] + 0.001 * (member.seed % 3)
        writer.write("metrics", step=4, loss=loss, elapsed=1.0)
        writer.write("eval", step=4, eval_loss=loss)
        writer.write("state", state="finished")
        writer.close()


def without_rates(config: RunConfig) -> TrainingConfig:
    return replace(config.training, learning_rate=1.0, full_learning_rate=None, seed=1)


def test_each_rung_is_a_run_that_differs_in_its_rates_alone(lab: Lab, config: RunConfig) -> None:
    config = replace(config, training=replace(config.training, learning_rate=2e-4))
    request = Request("two", seeds=2, rates=FACTORS)
    plans = plan_scenarios(lab, config, request)
    made = start(lab, config, request, plans)
    rungs = {key: [member.rung for member in made.members if member.scenario == key and member.seed == 42]
             for key in TITLES}  # fmt: skip
    assert rungs[TITLES[0]] == [Rung(1, 1), Rung(0.5, 1), Rung(2, 1)]
    assert rungs[TITLES[1]] == [Rung(1, 1), Rung(0.5, 1), Rung(2, 1), Rung(1, 0.5), Rung(1, 2)]
    assert len(set(made.runs)) == len(made.members) == 2 * (3 + 5)
    assert seconds(lab, config, plans, request) is None
    for member in made.members:
        found = lab.store.get(member.run).config
        assert found is not None
        assert found.training.learning_rate == pytest.approx(2e-4 * member.rate)
        assert found.modules[0].lr == (pytest.approx(1e-3 * member.rate) if member.scenario == TITLES[0] else None)
        if member.scenario == TITLES[1] and member.rung != Rung():
            assert found.training.full_learning_rate == pytest.approx(2e-5 * member.full_rate)
        rest = replace(found, title="", modules=(), training=without_rates(found))
        assert rest == replace(config, title="", modules=(), training=without_rates(config))
    assert lab.experiments.get(made.id) == made


def test_scenarios_are_compared_at_their_best_rates(lab: Lab, config: RunConfig) -> None:
    """At the configured rate the order is the other way round."""
    made = start(lab, config, Request("two", seeds=3, rates=FACTORS))
    first, second = TITLES
    losses: dict[tuple[str, float, float], float] = {(first, 0.5, 1): 2.2, (first, 1, 1): 1.9, (first, 2, 1): 2.1}
    losses |= {(second, lora, 1): loss for lora, loss in ((0.5, 2.3), (1.0, 2.0), (2.0, 1.5))}
    losses |= {(second, 1, full): loss for full, loss in ((0.5, 2.1), (2, 2.2))}
    finish(lab, made, losses)
    found, _ = compare(lab, [made.id])
    best = {group.name: group.best for group in found.groups}
    assert best == {first: Rung(1, 1), second: Rung(2, 1)}
    assert len(found.rows) == len(made.members)
    assert [(pair.better, pair.worse) for pair in found.pairs] == [(second, first)]
    assert any(f"{second} beats {first}" in line for line in found.verdict)
    open_end = [line for line in found.verdict if "beyond" in line]
    assert len(open_end) == 1 and open_end[0].startswith(second) and "highest learning rate tried" in open_end[0]
    shown = str(comparison.details(found, made))
    assert "full lr × 0.5: 2.1010" in shown and "lr × 2: 1.5010 <strong>best" in shown


def test_rates_are_factors_and_a_rate_stays_below_one() -> None:
    assert parse("1 0.5, ×2") == (0.5, 1, 2)
    for wrong in ("", "x", "0", "-1", "nan", "inf", "1000", "1,2,3,4,5,6,7,8,9,10"):
        with pytest.raises(UserError, match="learning rates"):
            parse(wrong)
    config = RunConfig(modules=(Tick("lm_head", "full", lr=0.3),))
    assert ladder(config, (1, 4)) == (Rung(), Rung(full=4))
    assert Rung(full=4).applied(config).modules[0].lr == 1.0
