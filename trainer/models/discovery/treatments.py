"""Decides which treatments a module allows: what PEFT can wrap and gradients reach."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

from peft import LoraConfig
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from torch import nn
from transformers.pytorch_utils import Conv1D

from trainer.models.discovery.peft_matching import PeftNames
from trainer.models.discovery.probing import ProbeResult
from trainer.models.module_map import READ

AllowedTreatments = tuple[tuple[str, ...], str]
"""(treatments, reason why one is missing)."""

BOTH = ("lora", "full")
UNUSED = "Text never runs through it, so training could not change it."
NO_GRADIENT = "No gradient of the loss reaches it, so training could not change it."
FIXED = "Fixed by design: the model itself never trains it."


def treat_module(name: str, module: nn.Module, group: str, probed: ProbeResult, peft: PeftNames) -> AllowedTreatments:
    """Treatments of a module that holds parameters of its own."""
    own = dict(module.named_parameters(recurse=False))
    called = probed.has(probed.called, name)
    read = any(probed.has_parameter(probed.read, name, key) for key in own)
    linear = isinstance(module, nn.Linear | Conv1D | nn.Embedding)
    runs = called and (probed.has(probed.reached, name) if linear else read)
    if isinstance(module, nn.ParameterList | nn.ParameterDict):
        return (), "A list of bare parameters: PEFT wraps modules with a forward of their own."
    if not any(parameter.requires_grad for parameter in own.values()):
        return (), FIXED
    if not runs and not read:
        return (), NO_GRADIENT if called else UNUSED
    if peft.hits_another(name):
        return (), "PEFT matches modules by the ends of their names, and would match another one as well."
    obstacle = _lora_obstacle(peft, name, module, group, probed) or ("" if runs else READ)
    return (("full",), obstacle) if obstacle else (BOTH, "")


def treat_parameter(
    holder: str, key: str, parameter: nn.Parameter, experts: bool, probed: ProbeResult
) -> AllowedTreatments:
    """Treatments of a bare parameter `key`, such as experts' weights, of the module `holder`."""
    called = probed.has(probed.called, holder)
    read = probed.has_parameter(probed.read, holder, key) or probed.has(probed.reached, holder)
    if not parameter.requires_grad:
        return (), FIXED
    if not (experts and called) and not read:
        return (), NO_GRADIENT if called else UNUSED
    if not experts:
        return (), "A bare parameter: PEFT wraps whole modules, or experts' weights."
    if not probed.failure and probed.has(probed.by_keyword, holder):
        return (), "PEFT cannot wrap experts whose inputs come by keyword."
    return ("lora",), "Full training would copy all experts of a layer: not offered."


def _lora_obstacle(peft: PeftNames, name: str, module: nn.Module, group: str, probed: ProbeResult) -> str:
    """Why LoRA would not work on a module; empty if it does."""
    parent, _, leaf = name.rpartition(".")
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "LoRA is offered on linears and embeddings, not on convolutions."
    if not isinstance(module, nn.Linear | Conv1D | nn.Embedding) or name in probed.routers:
        return "LoRA needs a linear or an embedding."
    if name in probed.misshapen:
        return "Its forward groups the inputs, which LoRA's two factors do not support."
    if name in probed.unlike_lookup:
        return "Its forward does more than look up rows: LoRA would add the wrong ones."
    if peft.lost_on_load(name):
        return "PEFT renames its LoRA when it loads the adapter, and loses it."
    try:
        _check_lora_target_modules_mamba(LoraConfig(), peft.model, leaf)
    except ValueError:
        return f"PEFT refuses {leaf} in this family: its fused kernels bypass the module."
    # Fused kernels of state-space mixers read weights on a GPU, even where the pass here called the module.
    if group == "other" and reads_weight(type(peft.model.get_submodule(parent)), leaf):
        return READ
    return ""


_SOURCES: dict[type, str] = {}


def reads_weight(owner: type, leaf: str) -> bool:
    """Whether the source of `owner` reads the weight of its child `leaf` directly."""
    if owner not in _SOURCES:
        _SOURCES[owner] = "".join(_methods(owner))
    pattern = rf"self\.{re.escape(leaf)}\.weight(?!\.(dtype|device|shape|size|ndim|is_))\b"
    return bool(re.search(pattern, _SOURCES[owner]))


def _methods(owner: type) -> Iterable[str]:
    """Source of each method that a class of transformers has, its initialization left out."""
    for base in owner.__mro__:
        if base.__module__.startswith("transformers.models"):
            for method in vars(base).values():
                if inspect.isfunction(method) and method.__name__ != "_init_weights":
                    yield inspect.getsource(method)
