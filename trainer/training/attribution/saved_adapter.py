"""Puts a run's saved adapter on its base model, in two steps: PEFT's modules as they start, then what was learned."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from peft import LoraConfig, PeftModel
from peft.utils import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from trainer.common.errors import UserError, first_line
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import Plan
from trainer.runs.adapter_settings import CONFIG, RESUME, read_settings
from trainer.training import adapter

WEIGHTS = "adapter_model.safetensors"
LEFT_OUT = {"inference_mode", "base_model_name_or_path"}
"""Settings that are not those of training."""


def attach(model: nn.Module, folder: Path, plan: Plan, module_map: ModuleMap) -> PeftModel:
    """Wrap `model` for the adapter in `folder`, with the weights that training starts from.

    The saved configuration is used, not the run's: PiSSA is saved as a plain LoRA of twice the rank. Raises UserError
    if there is none, or it does not fit.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise UserError("This run has no adapter yet.", "Let it finish, or stop it: both save one.", "data")
    settings = read_settings(folder / CONFIG)
    try:
        known = {item.name for item in fields(LoraConfig)}
        kept = {name: value for name, value in settings.items() if name in known - LEFT_OUT}
        config = LoraConfig(**kept)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"The adapter's {CONFIG} is damaged: {first_line(error)}", RESUME, "data") from error
    return adapter.wrap(model, config, plan, module_map)


def load(model: PeftModel, folder: Path) -> None:
    """Read the learned weights into a model that `attach` made. Raises UserError if they do not fit."""
    try:
        found = set_peft_model_state_dict(model, load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"The adapter cannot be read: {first_line(error)}", RESUME, "data") from error
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if odd := sorted([*found.unexpected_keys, *learned.intersection(found.missing_keys)]):
        raise UserError(f"The adapter does not fit its run: {odd[0]} is in one of both alone.", RESUME, "data")
