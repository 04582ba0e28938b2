from __future__ import annotations

import json
from dataclasses import replace

import pytest

from trainer.common.errors import InvalidConfig, Issue, UserError
from trainer.config import rules, validation
from trainer.config.schema import RunConfig, Tick, TrainingConfig, default_config
from trainer.config.validation import checked


def test_a_configuration_survives_json() -> None:
    config = replace(default_config(), modules=(Tick("q_proj"), Tick("lm_head", "full")), title="Ahoy ⚓")
    assert validation.loads(json.dumps(config.to_json())) == config


def test_every_problem_is_told_at_once_with_its_place_and_its_remedy() -> None:
    value = {
        "modules": [{"name": "q_proj", "treatment": "lorra"}, {"treatment": "lora"}],
        "adapter": {"r": 0, "lora_alfa": 3, "lora_dropout": 1.5},
        "training": {"learning_rate": "fast", "max_length": 2.5, "seed": True},
        "trainin": {},
    }
    with pytest.raises(InvalidConfig) as caught:
        validation.from_json(value)
    told = {issue.field: issue for issue in caught.value.issues}
    assert told.keys() >= {
        "modules[0].treatment",
        "modules[1].name",
        "adapter.lora_alfa",
        "training.learning_rate",
        "training.max_length",
        "training.seed",
        "trainin",
    }
    assert "lora_alpha" in told["adapter.lora_alfa"].fix
    assert "training" in told["trainin"].fix
    assert all(issue.problem and issue.fix for issue in caught.value.issues)


def test_bounds_are_checked() -> None:
    config = RunConfig(training=TrainingConfig(learning_rate=0.0, max_length=4, num_train_epochs=float("nan")))
    fields = {issue.field for issue in validation.validate(config)}
    assert fields == {"training.learning_rate", "training.max_length", "training.num_train_epochs"}


def test_a_kind_ticked_twice_is_refused() -> None:
    config = RunConfig(modules=(Tick("q_proj"), Tick("q_proj", "full")))
    assert [issue.field for issue in validation.validate(config)] == ["modules[1]"]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "[]",
            "null",
            '"x"',
            "[" * 100_000,
            '{"schema": 99}',
            '{"schema": 1e999}',
            '{"modules": {"a": 1}}',
        ),
        '{"training": {"seed": ' + "9" * 5000 + "}}",
        '{"training": {"max_steps": 1e30}}',
        '{"model": {"name": 3}}',
    ],
)
def test_what_is_no_configuration_gets_a_sentence(text: str) -> None:
    with pytest.raises(UserError) as caught:
        validation.loads(text)
    assert "Traceback" not in str(caught.value)
    assert "NoneType" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("text", "layers"),
    [("", range(10)), ("0-3", range(4)), ("last 2", (8, 9)), ("first 3", (0, 1, 2)), ("1,3, 8-9", (1, 3, 8, 9))],
)
def test_ranges_of_layers(text: str, layers: object) -> None:
    assert rules.parse_layers(text, 10) == tuple(layers)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["x", "1-", "-3", "last", "1;2", "99999999999", "5-3", "10", "0-10"])
def test_what_is_no_range_of_layers_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        rules.parse_layers(text, 10)


def test_ticks_that_cannot_be_used_are_no_reason_to_say_that_nothing_is_ticked() -> None:
    def look(config: RunConfig) -> list[Issue]:
        assert config.modules == ()
        return [Issue("modules", "Nothing is ticked.", ""), Issue("model.name", "Its weights are missing.", "")]

    with pytest.raises(InvalidConfig) as caught:
        checked({"modules": [{"name": "q_proj", "treatment": "lorra"}]}, look)
    assert [issue.field for issue in caught.value.issues] == ["modules[0].treatment", "model.name"]
