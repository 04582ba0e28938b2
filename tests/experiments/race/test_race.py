"""The race itself, with simulated trainings: who wins, what it costs, and what is said of what it cannot know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.lab import module_map_of, small_config
from trainer.common.errors import UserError
from trainer.config.schema import ModelConfig, RunConfig
from trainer.experiments.race import halving
from trainer.experiments.race.answer import to_json
from trainer.experiments.race.arms import make_arms, obstacle
from trainer.experiments.race.halving import Costs, Shape
from trainer.experiments.race.race import FAILED, LEFT_OUT, WAITING, Entry, Race
from trainer.experiments.race.records import Trained
from trainer.experiments.scenario_plans import ScenarioPlan
from trainer.planning.plan import make_plan

STEP, SETUP = 0.5, 1.0


@dataclass
class World:
    """Trainings that take no time: the loss depends on the arm, on the rate, on the steps and on chance."""

    losses: dict[str, float] = field(default_factory=dict)
    """How much each arm's loss lies above that of the others."""
    rates: dict[str, float] = field(default_factory=dict)
    """The best learning rate of each arm, where it is not 0.04."""
    broken: str = ""
    """The arm that cannot train."""
    chance: int = 0
    noise: float = 0.01
    """Of a whole run, and a fifth of that of a row."""
    seconds: float = 0.0
    runs: list[tuple[str, float, int, int]] = field(default_factory=list)

    def train(self, config: RunConfig, rows: int) -> Trained:
        if config.title == self.broken:
            raise UserError("PEFT rejects this selection.", "")
        steps, rate = config.training.max_steps, config.training.learning_rate
        self.runs.append((config.title, rate, steps, config.training.seed))
        self.seconds += SETUP + STEP * steps
        best = self.rates.get(config.title, 0.04) * (16 / steps) ** 0.5
        loss = 2 + self.losses.get(config.title, 0) + 0.1 * log2(rate / best) ** 2 + 2 / steps
        own = np.random.default_rng([self.chance, config.training.seed, *config.title.encode()])
        shared = np.random.default_rng(self.chance).normal(0, 0.3, rows)
        tokens = np.full(rows, 10.0)
        values = loss + shared + own.normal(0, 5 * self.noise, rows) + own.normal(0, self.noise)
        return Trained(10 * values, tokens, STEP, 0.0, SETUP)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("race")
    return small_config(folder / "data", folder / "rows.jsonl")


@pytest.fixture(scope="module")
def arms(base: RunConfig, models_dir: Path) -> tuple[ScenarioPlan, ...]:
    module_map = module_map_of(ModelConfig(name="llama", quantization="none"), models_dir)
    return make_arms(base, module_map, partial(make_plan, module_map=module_map))


def raced(arms: tuple[ScenarioPlan, ...], world: World, seconds: float, most: int = 500) -> Race:
    """A race of so many simulated seconds."""
    notes = [obstacle(arm) for arm in arms]
    entries = [Entry(arm, LEFT_OUT if note else WAITING, note) for arm, note in zip(arms, notes, strict=True)]
    race = Race(entries, Shape(4, most, 100), world.train, lambda: seconds - world.seconds, lambda: None)
    race.run()
    return race


def test_arms_have_the_same_budget_of_lora_parameters_and_none_runs_twice(arms: tuple[ScenarioPlan, ...]) -> None:
    able = [arm for arm in arms if not obstacle(arm)]
    titles = [arm.scenario.title for arm in able]
    assert {"All linear", "MLP", "Attention", "Lower two thirds", "o_proj alone", "down_proj of layer 1"} <= {*titles}
    assert len({(arm.plan.targets, arm.config.adapter) for arm in able}) == len(able)
    counts = {arm.scenario.title: arm.plan.trainable for arm in able}
    assert counts["Attention"] == pytest.approx(counts["All linear"], rel=0.05)
    assert counts["MLP"] == pytest.approx(counts["All linear"], rel=0.05)
    assert counts["down_proj of layer 1"] < counts["All linear"] / 2  # no module has a higher rank than its own
    assert titles[0] == "All linear"


def test_it_finds_the_best_arm_although_its_best_rate_is_another_one(
    arms: tuple[ScenarioPlan, ...], base: RunConfig
) -> None:
    world = World(losses={"MLP": -0.1}, rates={"MLP": 0.16})
    state = to_json(raced(arms, world, seconds=3600), base, 500)
    assert state["answer"]["title"] == state["arms"][0]["title"] == "MLP"
    assert state["answer"]["shown"] and "it beats" in state["answer"]["sentence"]
    assert world.seconds <= 3600
    names = {tick["name"] for tick in state["answer"]["config"]["modules"]}
    assert names == {"down_proj", "gate_proj", "up_proj"}
    steps = [rung["steps"] for rung in state["rungs"]]
    assert steps == sorted(steps) and steps[0] >= halving.LEAST_STEPS
    assert state["arms"][0]["seeds"] == halving.SEEDS


def test_arms_that_do_not_differ_are_hardly_ever_told_apart(arms: tuple[ScenarioPlan, ...], base: RunConfig) -> None:
    answers = [to_json(raced(arms, World(chance=chance), 1800), base, 500)["answer"] for chance in range(40)]
    assert sum("it beats" in answer["sentence"] for answer in answers) <= 3
    assert all(answer["shown"] or "no difference is shown" in answer["sentence"] for answer in answers)


def test_of_equal_arms_the_fastest_is_recommended(arms: tuple[ScenarioPlan, ...], base: RunConfig) -> None:
    class Uneven(World):
        def train(self, config: RunConfig, rows: int) -> Trained:
            found = super().train(config, rows)
            step = 0.3 if config.title == "MLP" else STEP
            return Trained(found.losses, found.tokens, step, 0.0, SETUP)

    losses = {arm.scenario.title: 0.5 for arm in arms} | {"MLP": 0.0, "All linear": -0.002, "Attention": 0.3}
    answer = to_json(raced(arms, Uneven(losses=losses, noise=0.001), 3600), base, 500)["answer"]
    assert answer["title"] == "MLP"
    assert "within 1.00 % of the lowest, that of All linear" in answer["sentence"]
    assert "40 % less time" in answer["sentence"]


@pytest.mark.parametrize("seconds", [40, 100, 160, 400, 900])
def test_whenever_it_ends_there_is_the_answer_so_far(
    arms: tuple[ScenarioPlan, ...], base: RunConfig, seconds: float
) -> None:
    world = World(losses={"MLP": -0.3})
    whole = raced(arms, world, 3600)
    total = world.seconds

    again = World(losses={"MLP": -0.3})
    entries = [Entry(item.arm) for item in whole.entries if not obstacle(item.arm)]
    planned: Callable[[], float] = lambda: 3600 - again.seconds if again.seconds < seconds else 0.0  # noqa: E731
    race = Race(entries, whole.shape, again.train, planned, lambda: None)
    race.run()
    state: dict[str, Any] = to_json(race, base, 500)
    assert race.stopped and again.seconds < total
    if state["answer"] is None:
        assert len(race.rungs) == 0 or not any(race.rungs[0].tried(key) for key in race.rungs[0].arms)
    else:
        assert not state["answer"]["shown"]
        assert [arm["place"] for arm in state["arms"] if arm["place"]] == list(
            range(1, 1 + sum(arm["place"] is not None for arm in state["arms"]))
        )


def test_an_arm_that_fails_drops_out_and_the_others_race_on(arms: tuple[ScenarioPlan, ...], base: RunConfig) -> None:
    race = raced(arms, World(broken="All linear", losses={"Attention": -0.3}), 1800)
    state = to_json(race, base, 500)
    failed = next(arm for arm in state["arms"] if arm["title"] == "All linear")
    assert (failed["state"], failed["note"]) == (FAILED, "PEFT rejects this selection.")
    assert state["answer"]["title"] == "Attention"


def test_short_time_races_the_most_important_arms_and_too_short_a_time_is_refused(
    arms: tuple[ScenarioPlan, ...],
) -> None:
    race = raced(arms, World(), 300)
    assert [item.title for item in race.entries if item.state != LEFT_OUT][:2] == ["All linear", "MLP"]
    assert any(item.note == "no time for it" for item in race.entries)
    with pytest.raises(UserError, match="a run of 16 steps takes 9 s here"):
        raced(arms, World(), 60)


def test_rungs_fit_the_time_whatever_the_costs() -> None:
    shape = Shape(8, 1000, 200)
    for arms in range(2, 30):
        costs = [Costs(1.0 + 0.1 * place, 0.2 + 0.01 * place, 0.01) for place in range(arms)]
        steps = halving.steps_of(600, costs, 3, shape)
        assert sum(3 * shape.seconds(cost, steps) for cost in costs) <= 600
        assert sum(3 * shape.seconds(cost, steps + 1) for cost in costs) > 600 or steps == 1000
        assert halving.sizes(arms)[-1] == min(arms, halving.FINALISTS)
