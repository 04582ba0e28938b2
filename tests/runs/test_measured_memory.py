"""Plans are corrected by what earlier runs on the same card needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import meter
from trainer.cli import plan_text
from trainer.common import devices
from trainer.common.devices import Device
from trainer.config.schema import default_config
from trainer.models.discovery.discover import discover
from trainer.planning.memory.correction import OVERHEAD, UNCORRECTED, MemoryCorrection
from trainer.planning.memory.peak import seen_by_torch
from trainer.planning.plan import Plan, make_plan
from trainer.planning.scenarios import SIX
from trainer.runs import event_log
from trainer.runs.measured_memory import MIN_STEPS, memory_correction
from trainer.runs.store import RunStore
from ui.panels.summary import State, summary

H100 = Device("cuda:0", total=80 * 10**9, free=78 * 10**9, bfloat16=True, model="NVIDIA H100 NVL")
CONFIG = replace(default_config("phi3-medium"), modules=SIX[4].modules)
MAP = discover(meter.phi3_medium(), "phi3-medium")


def plan_on(device: Device, correction: MemoryCorrection = UNCORRECTED) -> Plan:
    return make_plan(CONFIG, MAP, device, correction=correction)


def record_run(store: RunStore, plan: Plan, measured: float, steps: int = MIN_STEPS) -> None:
    """A run that needed `measured` bytes."""
    run = store.create(CONFIG, plan)
    for step in range(1, steps + 1):
        row: dict[str, Any] = {"step": step, "loss": 1.0, "memory": int(measured), "elapsed": float(step)}
        event_log.append(run.folder / "events.jsonl", "metrics", **row)


def test_the_median_of_a_card_s_runs_corrects_its_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, plan = RunStore(tmp_path), plan_on(H100)
    computed = seen_by_torch(plan.memory)
    for share in (1.02, 1.04, 1.3):
        record_run(store, plan, share * computed)
    record_run(store, plan, 3 * computed, steps=MIN_STEPS - 1)
    record_run(store, plan_on(replace(H100, model="NVIDIA A100")), 3 * computed)
    record_run(store, plan_on(replace(devices.CPU, total=10**12, free=10**12)), 3 * computed)

    found = memory_correction(store, H100.model)
    assert found.factor == pytest.approx(1.04, abs=1e-4)
    assert found.runs == 3
    corrected = plan_on(H100, found)
    assert corrected.memory[OVERHEAD] == pytest.approx(0.04 / 1.04 * seen_by_torch(corrected.memory), rel=1e-3)
    assert corrected.needed <= 0.85 * H100.room, "settings are chosen by it"
    assert corrected.to_json()["memory_correction"] == {"factor": found.factor, "runs": 3}

    said = "Runs on this card (NVIDIA H100 NVL) needed 4 % more memory than computed (3 runs): counted."
    plan_text.print_plan(corrected)
    assert said in capsys.readouterr().out
    assert said in summary(State(corrected))


def test_corrections_do_not_add_up(tmp_path: Path) -> None:
    """A run planned with a correction is held against what was computed, not against the corrected plan."""
    store, plan = RunStore(tmp_path), plan_on(H100, MemoryCorrection(1.2, 2, H100.model))
    computed = seen_by_torch(plan.memory) - plan.memory[OVERHEAD]
    record_run(store, plan, 1.1 * computed)
    assert memory_correction(store, H100.model).factor == pytest.approx(1.1, rel=1e-3)


def test_a_plan_is_never_lowered_and_corrections_have_an_end(tmp_path: Path) -> None:
    store, plan = RunStore(tmp_path), plan_on(H100)
    computed = seen_by_torch(plan.memory)
    assert memory_correction(store, H100.model).sentence() == ""
    record_run(store, plan, 0.6 * computed)
    less = memory_correction(store, H100.model)
    assert less.factor == 1
    assert "needed 40 % less memory than computed (1 run): not counted" in less.sentence()
    assert plan_on(H100, less).memory == plan.memory
    assert MemoryCorrection(1.9, 3, "T4").factor == 1.5
    assert "90 % more memory than computed (3 runs); 50 % are counted" in MemoryCorrection(1.9, 3, "T4").sentence()


def test_folders_of_earlier_versions_and_damaged_ones_count_for_nothing(tmp_path: Path) -> None:
    store, plan = RunStore(tmp_path), plan_on(H100)
    record_run(store, plan, 2 * plan.needed)
    (folder,) = [store.folder / run_id for run_id in store.ids()]
    for text in ("{", "[]", '{"memory_predicted": 5, "memory": {}, "device_memory": {"device": "cuda:0"}}'):
        (folder / "plan.json").write_text(text)
        assert memory_correction(store, H100.model).runs == 0
        memory_correction.__globals__["_planned"].cache_clear()
