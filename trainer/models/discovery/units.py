"""The units of a model: modules and bare parameters, each with its group, shape and treatments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainer.models.discovery.grouping import Grouping
from trainer.models.discovery.peft_matching import PeftNames
from trainer.models.discovery.probing import ProbeResult
from trainer.models.discovery.skeleton import linear_shape
from trainer.models.discovery.treatments import FIXED, UNUSED, AllowedTreatments, treat_module, treat_parameter


@dataclass(frozen=True)
class Unit:
    """One module with parameters of its own, or one bare parameter: a member of a kind."""

    name: str
    class_name: str
    group: str
    shape: tuple[int, ...]
    parameters: int
    """Count of the parameters that no earlier unit owns."""
    bias: bool
    tied_to: str
    """Name of the unit whose weight it shares; empty if it owns it."""
    allowed: AllowedTreatments
    tower: int
    """How many of the last parts of its path lie in a tower; 0 outside them."""
    recurrent: bool
    """In a recurrent token mixer; see `grouping.RECURRENT`."""
    experts: bool = False
    """Whether it is a bare parameter that holds the weights of a layer's experts."""


def find_units(model: PreTrainedModel, grouping: Grouping, probed: ProbeResult) -> Iterator[Unit]:
    """All units in the model's order; a weight that two modules share belongs to the embedding, or to a module."""
    modules = {name: module for name, module in model.named_modules() if _own(module)}
    whole = {name: module for name, module in modules.items() if _is_whole(name, module, grouping)}
    owners: dict[int, str] = {}
    units: dict[str, Unit] = {}
    peft = PeftNames(model)
    for name in sorted(whole, key=lambda name: name not in grouping.embedding):
        idle = grouping.depth_in_tower(name) > 0
        allowed = ((), UNUSED) if idle else treat_module(name, whole[name], grouping.of(name), probed, peft)
        units[name] = _module_unit(name, whole[name], grouping, owners, allowed)
    for holder in [name for name in modules if name not in whole]:
        for key, parameter in _own(modules[holder]).items():
            name = f"{holder}.{key}"
            if owners.setdefault(id(parameter), name) == name:
                units[name] = _bare_unit(name, holder, modules[holder], grouping, probed)
    for name, _ in model.named_parameters(remove_duplicate=False):
        unit = units.pop(name, None) or units.pop(name.rpartition(".")[0], None)
        if unit:
            yield unit


def _own(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(recurse=False))


def _is_whole(name: str, module: nn.Module, grouping: Grouping) -> bool:
    """Whether a module is a unit by itself: no parameters below it, and none of its own are experts."""
    below = any(True for child in module.children() for _ in child.parameters())
    return not below and not any(_is_expert_weight(key, name, module, grouping) for key in _own(module))


def _is_expert_weight(key: str, holder: str, module: nn.Module, grouping: Grouping) -> bool:
    """Whether a parameter holds all experts of a layer: stacked, or concatenated in one matrix (DBRX)."""
    name = f"{holder}.{key}"
    if key.endswith("bias"):
        return False
    flat = not isinstance(module, nn.Linear | Conv1D) and grouping.of_parameter(name, holder) == "mlp"
    return flat or grouping.is_experts(name, holder)


def _module_unit(
    name: str, module: nn.Module, grouping: Grouping, owners: dict[int, str], allowed: AllowedTreatments
) -> Unit:
    own = _own(module)
    mine = [parameter for parameter in own.values() if owners.setdefault(id(parameter), name) == name]
    main = own.get("weight", next(iter(own.values())))
    owner = owners[id(main)]
    return Unit(
        name=name,
        class_name=type(module).__name__,
        group=_group(grouping.of(name), allowed),
        shape=linear_shape(module) if isinstance(module, nn.Linear | Conv1D) else tuple(main.shape),
        parameters=sum(parameter.numel() for parameter in mine),
        bias=own.get("bias") is not None,
        tied_to="" if owner == name else owner,
        allowed=allowed,
        tower=grouping.depth_in_tower(name),
        recurrent=grouping.is_recurrent(name),
    )


def _bare_unit(name: str, holder: str, module: nn.Module, grouping: Grouping, probed: ProbeResult) -> Unit:
    parameter = module.get_parameter(name.rpartition(".")[2])
    experts = grouping.is_experts(name, holder)
    shape = tuple(parameter.shape)
    if experts and getattr(module, "is_transposed", False):
        shape = (shape[0], shape[2], shape[1])
    idle = grouping.depth_in_tower(name) > 0
    allowed = ((), UNUSED) if idle else treat_parameter(holder, name.rpartition(".")[2], parameter, experts, probed)
    return Unit(
        name=name,
        class_name="Parameter",
        group=_group(grouping.of_parameter(name, holder), allowed),
        shape=shape,
        parameters=parameter.numel(),
        bias=False,
        tied_to="",
        allowed=allowed,
        tower=grouping.depth_in_tower(name),
        recurrent=grouping.is_recurrent(name),
        experts=_is_expert_weight(name.rpartition(".")[2], holder, module, grouping),
    )


def _group(group: str, allowed: AllowedTreatments) -> str:
    """The group, or `other` for what the model itself keeps frozen, such as BLT's patcher."""
    return "other" if allowed == ((), FIXED) and group in ("attention", "mlp") else group
