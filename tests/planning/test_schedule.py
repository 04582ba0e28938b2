"""Steps and warmup against transformers' own count; short runs, and what is proposed for them."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, get_scheduler

from trainer.config import overrides, validation
from trainer.config.schema import RunConfig, TrainingConfig
from trainer.planning.schedule import (
    CHECKPOINTS,
    EVALS,
    eval_steps,
    extended,
    save_steps,
    total_steps,
    warmup_steps,
)
from trainer.planning.short_runs import SENSIBLE_STEPS, warnings


class Line(nn.Module):
    """The smallest model that Trainer trains."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * x - 1).square().mean()}


def trained(folder: Path, training: TrainingConfig, examples: int, warmup: float) -> Any:
    """A real Trainer after its training, with transformers' own share of warmup or a number of steps."""
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
        logging_steps=1, warmup_steps=warmup, num_train_epochs=training.num_train_epochs,
        per_device_train_batch_size=training.per_device_train_batch_size, learning_rate=training.learning_rate,
        gradient_accumulation_steps=training.gradient_accumulation_steps, max_steps=training.max_steps,
    )  # fmt: skip
    trainer = Trainer(Line(), arguments, train_dataset=[{"x": torch.ones(1)}] * examples)
    trainer.train()
    return trainer


CASES = {
    "65 rows, 20 epochs": (65, 8, 8, 20, -1),
    "one step": (48, 8, 8, 1, -1),
    "one row": (1, 8, 8, 3, -1),
    "1.1 epochs": (100, 7, 3, 1.1, -1),
    "a part of an epoch": (30, 1, 1, 0.35, -1),
    "max_steps": (9, 2, 1, 1, 7),
}
"""Examples, micro-batch, accumulation, epochs, max_steps."""


@pytest.mark.parametrize(("examples", "micro", "accumulation", "epochs", "most"), CASES.values(), ids=CASES)
def test_steps_and_rates_are_those_of_transformers(
    examples: int, micro: int, accumulation: int, epochs: float, most: int, tmp_path: Path
) -> None:
    training = TrainingConfig(
        per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation, num_train_epochs=epochs,
        max_steps=most,
    )  # fmt: skip
    steps = total_steps(training, examples)
    ours = trained(tmp_path, training, examples, warmup_steps(training, steps)).state
    assert steps == ours.max_steps
    rates = [row["learning_rate"] for row in ours.log_history if "loss" in row]
    assert max(rates) == training.learning_rate
    if steps >= 10:  # the study's warmup of a tenth, bit for bit
        theirs = trained(tmp_path, training, examples, training.warmup_ratio).state.log_history
        assert rates == [row["learning_rate"] for row in theirs if "loss" in row]


class Begun(Exception):
    """Raised by a Trainer that knows how many steps it will take."""


class StopAtOnce(TrainerCallback):  # type: ignore[misc]
    def on_train_begin(self, *_: Any, **__: Any) -> None:
        raise Begun


QUICK = ((65, 7, 8, 1.1), (65, 64, 1, 1.1), (1000, 7, 1, 1.1), (1000, 64, 8, 1.1))
GRID = tuple(product((1, 65, 1000), (7, 64), (1, 8), (1.1, 3)))
"""Examples, micro-batch, accumulation, epochs. `make test` takes each number of the first three once."""


@pytest.mark.parametrize("grid", [QUICK, pytest.param(GRID, marks=pytest.mark.full)], ids=len)
def test_all_of_the_grid_counts_as_transformers_counts(
    grid: tuple[tuple[int, int, int, float], ...], tmp_path: Path
) -> None:
    for examples, micro, accumulation, epochs in grid:
        values: dict[str, Any] = {
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": accumulation,
            "num_train_epochs": epochs,
        }
        arguments = TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, **values
        )
        rows = [{"x": torch.ones(1)}] * examples
        trainer = Trainer(Line(), arguments, train_dataset=rows, callbacks=[StopAtOnce()])
        with pytest.raises(Begun):
            trainer.train()
        training = TrainingConfig(**values)
        steps = total_steps(training, examples)
        assert steps == trainer.state.max_steps, training
        assert 1 <= ceil(steps / eval_steps(training, examples, 1)) <= EVALS
        assert 1 <= ceil(steps / save_steps(training, examples)) <= CHECKPOINTS


@pytest.mark.parametrize(("held_out", "evaluations"), [(4, 10), (650, 3), (65_000, 1)])
def test_a_run_over_few_rows_is_evaluated_as_often_as_promised(
    held_out: int, evaluations: int, tmp_path: Path
) -> None:
    """65 rows, batch 64, 100 epochs: 200 steps, of which every second sees one row."""
    training = TrainingConfig(
        per_device_train_batch_size=64, gradient_accumulation_steps=1, num_train_epochs=100, max_steps=-1
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
        num_train_epochs=100, per_device_train_batch_size=64, eval_strategy="steps",
        eval_steps=eval_steps(training, 65, held_out),
    )  # fmt: skip
    rows = [{"x": torch.ones(1)}] * 65
    trainer = Trainer(Line(), arguments, train_dataset=rows, eval_dataset=rows[:1])
    trainer.train()
    assert trainer.state.max_steps == total_steps(training, 65) == 200
    assert sum("eval_runtime" in row for row in trainer.state.log_history) == evaluations


def test_more_epochs_are_as_many_more_steps() -> None:
    by_epochs = TrainingConfig(num_train_epochs=2, max_steps=-1)
    assert total_steps(extended(by_epochs, 3, 65), 65) == total_steps(replace(by_epochs, num_train_epochs=5), 65)
    by_steps = TrainingConfig(max_steps=7)
    assert total_steps(extended(by_steps, 3, 65), 65) == 7 + 3 * 2


@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.1, 0.5, 0.9])
def test_a_warmup_is_that_of_transformers_but_where_it_would_take_all_steps(ratio: float, tmp_path: Path) -> None:
    theirs = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, warmup_steps=ratio)
    training = TrainingConfig(warmup_ratio=ratio)
    for steps in range(1, 400):
        own = warmup_steps(training, steps)
        if steps * ratio >= 1 and theirs.get_warmup_steps(steps) < steps:
            assert own == theirs.get_warmup_steps(steps)
    for steps in range(1, 40):
        for kind in ("linear", "cosine", "constant", "constant_with_warmup"):
            optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
            schedule = get_scheduler(kind, optimizer, warmup_steps(training, steps), steps)
            rates = []
            for _ in range(steps):
                rates.append(schedule.get_last_lr()[0])
                optimizer.step()
                schedule.step()
            assert max(rates) == 1.0, f"{kind}: {steps} steps never reach the peak"


RUNS = [
    TrainingConfig(per_device_train_batch_size=micro, gradient_accumulation_steps=steps, num_train_epochs=epochs)
    for micro, steps in ((8, 8), (8, 1), (1, 1), (7, 9), (2, 3), (64, 1))
    for epochs in (1, 0.5, 2)
]


@pytest.mark.parametrize("examples", [1, 3, 10, 48, 100, 950, 1920])
def test_what_is_proposed_for_a_short_run_gives_the_steps_that_it_names(examples: int) -> None:
    for training in RUNS:
        config = RunConfig(training=training)
        found = warnings(training, examples)
        assert bool(found) == (total_steps(training, examples) < SENSIBLE_STEPS)
        for warning in found:
            better = validation.from_json(overrides.apply(config.to_json(), warning.changes)).training
            steps = total_steps(better, examples)
            assert steps >= SENSIBLE_STEPS
            assert f": {steps} steps." in warning.fix
            assert better.num_train_epochs >= training.num_train_epochs
            assert warnings(better, examples) == []
            options = overrides.as_options(warning.changes).replace("--set ", "").split()
            assert overrides.from_options(options) == warning.changes


def test_fifty_rows_are_told_in_figures() -> None:
    (warning,) = warnings(TrainingConfig(), 48)
    assert warning.field == "training.num_train_epochs"
    assert re.findall(r"\d+", warning.problem) == ["48", "1", "64", "1"], "examples, steps, batch, epochs"
    assert re.findall(r"\d+", warning.fix) == ["4", "3", "36"], "batch, epochs, steps"
    assert warning.to_json()["changes"] == {
        "training.per_device_train_batch_size": 4,
        "training.gradient_accumulation_steps": 1,
        "training.num_train_epochs": 3,
    }
    assert warnings(TrainingConfig(), 0) == [], "data that were not read yet"
    (set_so,) = warnings(replace(TrainingConfig(), max_steps=5), 0)
    assert set_so.changes == {"training.max_steps": 30}
