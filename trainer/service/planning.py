"""Configurations: what to start from, what is wrong with one, what it would train and cost."""

from __future__ import annotations

from typing import Any

from trainer.common import devices
from trainer.config.schema import ModelConfig, RunConfig
from trainer.config.validation import checked
from trainer.models.weight_files import no_tokenizer, no_weights
from trainer.planning.plan import Plan, make_plan
from trainer.planning.scenarios import SIX, scenario, starting_config, study_job
from trainer.planning.targets import MatchReport
from trainer.service import data, models
from trainer.service.lab import Lab

__all__ = [
    "SIX",
    "MatchReport",
    "Plan",
    "check",
    "lacks_only_weights",
    "plan",
    "scenario",
    "start_from",
    "starting_config",
    "study_job",
]


def start_from(lab: Lab, model: ModelConfig) -> RunConfig:
    """The configuration that a model starts with: it fits its modules, its checkpoint and its length.

    Raises UserError where the model cannot be read; Unreachable where that is the hub's silence.
    """
    return starting_config(model, models.module_map(lab, model))


def check(lab: Lab, value: Any) -> RunConfig:
    """A configuration from parsed JSON. Raises InvalidConfig with every problem of it, those of its plan too."""
    return checked(value, lambda config: plan(lab, config).issues)


def plan(lab: Lab, config: RunConfig) -> Plan:
    """The plan of a configuration. Raises UserError where its model cannot be read.

    Its steps are known once its data have been read (`data.check`, `data.read_if_quick`).
    """
    module_map = models.module_map(lab, config.model)
    vocabulary = models.vocabulary(lab, config.model) if config.model.new_tokens else ()
    made = make_plan(config, module_map, devices.device(), vocabulary, data.size(lab, config))
    return made.on(lab.base_models.examine(config.model, module_map))


def lacks_only_weights(found: Plan, model: str) -> bool:
    """Whether nothing keeps a run from starting but that the model's weights are not here: planning needs none."""
    absent = {no_weights(model), no_tokenizer(model)} if no_weights(model) in found.issues else set()
    return not set(found.issues) - absent
