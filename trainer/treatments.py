"""What may be done with a module kind, and why not more: what PEFT can wrap and training would reach."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from functools import cache

from peft import LoraConfig
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainer.survey import Survey

Verdict = tuple[tuple[str, ...], str]
"""Treatments, and the reason why one is missing."""

BOTH = ("lora", "full")
UNUSED = "Text never runs through it, so training could not change it."
NO_GRADIENT = "No gradient reaches it: it only chooses."


def treat_module(model: PreTrainedModel, name: str, module: nn.Module, seen: Survey) -> Verdict:
    """Treatments of a module that holds parameters of its own."""
    read = any(seen.has_parameter(seen.read, name, key) for key, _ in module.named_parameters(recurse=False))
    linear = isinstance(module, nn.Linear | Conv1D | nn.Embedding)
    runs = seen.has(seen.called, name) and (not linear or seen.has(seen.reached, name))
    if isinstance(module, nn.ParameterList | nn.ParameterDict):
        return (), "A list of bare parameters: PEFT wraps modules with a forward of their own."
    if not runs and not read:
        return (), NO_GRADIENT if seen.has(seen.called, name) else UNUSED
    if not any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
        return (), "Fixed by design: the model itself never trains it."
    if not linear:
        return ("full",), _no_lora(module)
    obstacle = _lora_obstacle(model, name, module, seen, runs)
    return (("full",), obstacle) if obstacle else (BOTH, "")


def treat_parameter(holder: str, key: str, experts: bool, seen: Survey) -> Verdict:
    """Treatments of a bare parameter `key`, such as experts' weights, of the module `holder`."""
    runs = experts and seen.has(seen.called, holder)
    if not runs and not seen.has_parameter(seen.read, holder, key):
        return (), UNUSED
    if not experts:
        return (), "A bare parameter: PEFT wraps whole modules, or experts' weights."
    if seen.failure == "" and seen.has(seen.by_keyword, holder):
        return (), "PEFT cannot wrap experts whose inputs come by keyword."
    return ("lora",), "Full training would copy all experts of a layer: not offered."


def _no_lora(module: nn.Module) -> str:
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "LoRA is offered on linears and embeddings, not on convolutions."
    return "LoRA needs a linear or an embedding."


def _lora_obstacle(model: PreTrainedModel, name: str, module: nn.Module, seen: Survey, runs: bool) -> str:
    """Why LoRA would not work on a linear or embedding; empty where it does."""
    parent, _, leaf = name.rpartition(".")
    if name in seen.misshapen:
        return "Its forward groups the inputs: LoRA's two factors do not fit."
    if isinstance(module, nn.Embedding) and name in seen.unlike_lookup:
        return "Its forward does more than look rows up: LoRA would add the wrong rows."
    try:
        _check_lora_target_modules_mamba(LoraConfig(), model, leaf)
    except ValueError:
        return f"PEFT refuses {leaf} in this family: its fused kernels go around the module."
    if not runs or reads_weight(type(model.get_submodule(parent)), leaf):
        return "Its weight is read without calling the module, so LoRA could be skipped in silence."
    return ""


@cache
def reads_weight(owner: type[nn.Module], leaf: str) -> bool:
    """Whether the code of `owner` reads the weight of its child `leaf` by itself, in any of its paths."""
    text = "".join(_sources(owner))
    return bool(re.search(rf"self\.{re.escape(leaf)}\.weight(?!\.(dtype|device|shape|size|ndim|is_))\b", text))


def _sources(owner: type) -> Iterable[str]:
    for base in owner.__mro__:
        if base.__module__.startswith("transformers.models"):
            for method in vars(base).values():
                if inspect.isfunction(method) and method.__name__ != "_init_weights":
                    yield inspect.getsource(method)
