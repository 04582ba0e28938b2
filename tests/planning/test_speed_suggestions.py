"""What would be faster but changes what a run learns: offered with the plan's own figures, never applied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support import meter
from trainer.cli import plan_text
from trainer.common import devices
from trainer.common.devices import Device
from trainer.common.errors import Issue
from trainer.common.formatting import size
from trainer.config import overrides
from trainer.config.schema import RunConfig, default_config
from trainer.config.validation import from_json
from trainer.models.discovery.discover import discover
from trainer.planning.plan import Plan, make_plan
from trainer.planning.scenarios import SIX
from ui.panels.summary import State, summary

CONFIG = replace(default_config("phi3-medium"), modules=SIX[4].modules)
MAP = discover(meter.phi3_medium(), "phi3-medium")


def plan_of(gigabytes: int, config: RunConfig = CONFIG) -> Plan:
    return make_plan(config, MAP, Device("cuda:0", gigabytes * 10**9, gigabytes * 10**9, bfloat16=True))


def offered(plan: Plan) -> dict[str, Issue]:
    return {issue.field: issue for issue in plan.suggestions}


def applied(issue: Issue) -> RunConfig:
    """The configuration after its button was pressed."""
    return from_json(overrides.apply(CONFIG.to_json(), issue.changes))


def test_dropout_has_its_price_in_memory_or_rows() -> None:
    roomy, tight = plan_of(80), plan_of(24)
    without = plan_of(80, applied(offered(roomy)["adapter.lora_dropout"]))
    price = f"this needs {size(without.needed)} instead of {size(roomy.needed)}"
    assert price in offered(roomy)["adapter.lora_dropout"].problem
    assert without.needed < 0.95 * roomy.needed
    assert "adapter.lora_dropout" not in offered(without)

    less = plan_of(24, applied(offered(tight)["adapter.lora_dropout"])).performance
    assert less.every_n_layers == 0 < tight.performance.every_n_layers
    assert "nothing recomputed fit instead of" in offered(tight)["adapter.lora_dropout"].problem


def test_unquantized_weights_are_offered_where_they_fit() -> None:
    roomy = plan_of(80)
    suggestion = offered(roomy)["model.quantization"]
    plain = plan_of(80, applied(suggestion))
    assert f"fit, too: {size(plain.needed)} of 80.0 GB" in suggestion.problem
    assert plain.needed <= 0.85 * 80e9
    assert plain.performance.every_n_layers <= roomy.performance.every_n_layers
    assert "model.quantization" not in offered(plain)
    assert "model.quantization" not in offered(plan_of(24))


def test_nothing_is_offered_without_a_gpu_of_known_memory() -> None:
    for device in (replace(devices.CPU, total=10**12, free=10**12), Device("cuda:0", bfloat16=True)):
        assert make_plan(CONFIG, MAP, device).suggestions == ()


def test_they_are_shown_with_a_button_and_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(80)
    page: Any = summary(State(plan))
    plan_text.print_plan(plan)
    text = capsys.readouterr().out
    for issue in plan.suggestions:
        assert issue.problem in page
        assert issue.problem in text
    assert page.count("<button") == len(plan.suggestions) == 2
    assert "--set adapter.lora_dropout=0.0" in text
    assert plan.warnings == ()
