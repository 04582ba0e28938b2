"""Configurations: defaults for a model, validation, and the plan."""

from __future__ import annotations

from typing import Any

from trainer.common import devices
from trainer.config.schema import ModelConfig, RunConfig
from trainer.config.validation import checked
from trainer.experiments.saved_sets import PRESETS
from trainer.models.module_map import ModuleMap
from trainer.models.weight_files import no_tokenizer, no_weights
from trainer.planning.memory.correction import UNCORRECTED
from trainer.planning.plan import Plan, make_plan
from trainer.planning.scenarios import SIX, Scenario, groups, scenario, six, starting_config, study_job
from trainer.planning.schedule import UNREAD
from trainer.planning.targets import MatchReport
from trainer.runs.measured_memory import memory_correction
from trainer.service import data, models
from trainer.service.lab import Lab

__all__ = [
    "PRESETS",
    "SIX",
    "MatchReport",
    "Plan",
    "Scenario",
    "check",
    "lacks_only_weights",
    "plan",
    "preset_groups",
    "scenario",
    "start_from",
    "starting_config",
    "study_job",
]


def start_from(lab: Lab, model: ModelConfig) -> RunConfig:
    """The default configuration for a model, which fits its modules, checkpoint and maximum length.

    Raises UserError if the model cannot be read; Unreachable if the hub does not respond.
    """
    return starting_config(model, models.module_map(lab, model))


def check(lab: Lab, value: Any) -> RunConfig:
    """A configuration from parsed JSON. Raises InvalidConfig with all its problems, including those of its plan."""
    return checked(value, lambda config: plan(lab, config).issues)


def plan(lab: Lab, config: RunConfig) -> Plan:
    """The plan of a configuration. Raises UserError if its model cannot be read.

    Its number of steps is known once its data have been read (`data.check`, `data.read_if_quick`).
    """
    module_map = models.module_map(lab, config.model)
    vocabulary = models.vocabulary(lab, config.model) if config.model.new_tokens else ()
    device = devices.device()
    correction = memory_correction(lab.store, device.model) if lab.settings.runs_dir.is_dir() else UNCORRECTED
    result = make_plan(config, module_map, device, vocabulary, data.size(lab, config) or UNREAD, correction)
    return result.on(lab.base_models.examine(config.model, module_map))


def preset_groups(module_map: ModuleMap) -> dict[str, tuple[Scenario, ...]]:
    """Built-in selections to start from, by the title of their group: parts of the model, and the study's six."""
    parts = {item.key: item for item in groups(module_map)}
    ordered = tuple(parts[key] for key in ("linear", "attention", "mlp", "ends") if key in parts)
    return {"Parts of the model": ordered, "The study’s six": six(module_map)}


def lacks_only_weights(plan: Plan, model: str) -> bool:
    """Whether the only problem is that the model's weights are missing, which planning does not need."""
    absent = {no_weights(model), no_tokenizer(model)} if no_weights(model) in plan.issues else set()
    return not set(plan.issues) - absent
