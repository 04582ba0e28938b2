"""Runs in real processes, for tests: a runs folder, small configurations, waiting for states."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support import tiny
from trainer.config.schema import AdapterConfig, DataConfig, ModelConfig, RunConfig, Tick, TrainingConfig
from trainer.execution.analysis import LocalAnalysis
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import Plan
from trainer.service import Lab, Settings, models, planning
from trainer.service.data import keep_data

PATIENCE = 180.0
"""Seconds to wait for what takes one on an idle machine. A test that passes never waits so long."""


def small_config(data_dir: Path, rows: Path, steps: int = 8, **training: Any) -> RunConfig:
    """A run of a few steps of the tiny Phi-3 on a small file."""
    tiny.save_rows(rows)
    settings: dict[str, Any] = {
        "learning_rate": 1e-2,
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_length": 64,
        "optim": "adamw_torch",
        "activation_checkpointing": "off",
        "eval_steps": 4,
        "samples": 0,
    }
    return RunConfig(
        title="A small run",
        model=ModelConfig(name="phi3", quantization="none"),
        modules=(Tick("q_proj"), Tick("v_proj"), Tick("o_proj"), Tick("lm_head", "full")),
        adapter=AdapterConfig(r=4, lora_alpha=8),
        data=DataConfig(source="file", path=keep_data(rows, data_dir), eval_fraction=0.125),
        training=TrainingConfig(**settings | training),
    )


def endless(config: RunConfig) -> RunConfig:
    """The same run with more steps than anybody waits for."""
    return replace(config, training=replace(config.training, max_steps=100_000))


def open_lab(tmp_path: Path, models_dir: Path) -> Lab:
    """The app's lab, but that models and data are read in this process, which has imported torch already."""
    lab = Lab(Settings(runs_dir=tmp_path / "runs", models_dir=models_dir))
    lab.model_analysis = lab.data_analysis = LocalAnalysis(models_dir, lab.settings.data_dir)
    return lab


def command_lab(models_dir: Path) -> Lab:
    """The lab of one command: reads models in this process, makes no folder."""
    return Lab(Settings(models_dir=models_dir), in_process=True)


def module_map_of(model: ModelConfig, models_dir: Path) -> ModuleMap:
    return models.module_map(command_lab(models_dir), model)


def plan_of(config: RunConfig, models_dir: Path) -> Plan:
    return planning.plan(command_lab(models_dir), config)


def wait_for(ready: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The first true answer of `ready`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = ready()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")
