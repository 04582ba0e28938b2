"""Discovers the module map of any transformers causal LM from its config, without weights.

The model is built on the `meta` device, which gives names and shapes. What the modules do (whether text runs through
them, which rows of a fused projection are q, k and v) is measured on its skeleton. Only processes that may import
torch import this module.
"""

from __future__ import annotations

import copy
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import torch
from transformers import AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.initialization import no_init_weights

from trainer.common.errors import UserError, first_line
from trainer.models.discovery.block_layout import build_blocks
from trainer.models.discovery.fused_projections import Slices
from trainer.models.discovery.grouping import Grouping
from trainer.models.discovery.kind_names import short_names
from trainer.models.discovery.peft_matching import PeftNames, mark_by_weight
from trainer.models.discovery.probing import CAUSAL, ProbeResult, extra_inputs, probe_model, towers
from trainer.models.discovery.saved_tensors import forward_facts
from trainer.models.discovery.units import Unit, find_units
from trainer.models.model_config import auto_class, missing_package
from trainer.models.module_map import GROUPS, ModuleKind, ModuleMap
from trainer.models.quantized_modules import format_of, without_unsupported_treatments
from trainer.models.size_limits import bounded_build, overflow

SHARED = "Several layers share its weight, so an adapter or a copy for one of them would change the others."


def discover(config: PretrainedConfig, name: str) -> ModuleMap:
    """The module map of the causal LM described by `config`, shown as `name`.

    Raises UserError if transformers cannot build the model, or its tokens attend to later tokens.
    """
    try:
        with bounded_build(name):
            model = build(config).eval()
    except UserError:
        raise
    except ImportError as error:
        raise missing_package(error, name) from error
    except Exception as error:  # of any kind, since the values in a config.json are not validated
        if "overflow" in str(error).lower():
            raise overflow(config, name) from error
        raise UserError(
            f"The config.json of {name} describes no model: {type(error).__name__}: {first_line(error).rstrip('.')}.",
            "Correct it, or choose another model.",
        ) from error
    grouping = Grouping(model, config)
    probed = probe_model(model, grouping, config)
    if probed.failure:  # some rescale their weights for inference, which a skeleton does not have
        model = build(config).train()
        probed = probe_model(model, grouping, config)
    if probed.failure and auto_class(config) is AutoModelForImageTextToText:
        failure = probed.failure[:200].rstrip(".")
        raise UserError(
            f"{name} does not run on text alone, so it cannot be trained on text: {failure}.",
            "Choose a language model, or an image-text model that takes text without an image.",
        )
    if probed.non_causal_setting:  # its loss would fall while it learns to copy
        wanted = json.dumps(CAUSAL[probed.non_causal_setting][1])
        raise UserError(
            f"{name} is not a causal LM with this config: tokens attend to later ones, so its loss is meaningless.",
            f"Set “{probed.non_causal_setting}” to {wanted} in its config.json, or choose another model.",
        )
    grouping.towers = towers(grouping, probed)
    units = list(find_units(model, grouping, probed))
    checkpoint = format_of(config, model)
    kinds = list(without_unsupported_treatments(mark_by_weight(_kinds(units, probed), PeftNames(model)), checkpoint))
    text = config.get_text_config(decoder=True)
    return ModuleMap(
        model=name,
        model_type=config.model_type,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        kinds=tuple(kinds),
        layers=_number(text, "num_hidden_layers"),
        hidden_size=_number(text, "hidden_size"),
        intermediate_size=_number(text, "intermediate_size") or _widest(units),
        vocab_size=_number(text, "vocab_size"),
        heads=_number(text, "num_attention_heads"),
        max_positions=_number(text, "max_position_embeddings", "max_seq_len", "seq_length"),
        auto_class=auto_class(config).__name__,
        dtype=str(config.dtype or "").removeprefix("torch."),
        checkpoint=checkpoint,
        own_names=not get_model_conversion_mapping(model, add_legacy=False),
        forward=forward_facts(model, text, _number(text, "hidden_size"), **extra_inputs(config)),
        blocks=build_blocks(kinds, grouping, probed),
    )


def build(config: PretrainedConfig) -> PreTrainedModel:
    """The model on the `meta` device: modules, names and shapes, no memory."""
    own = copy.deepcopy(config)  # transformers notes dtype and attention in the config it builds from
    with torch.device("meta"), no_init_weights():
        model = auto_class(own).from_config(own, dtype=torch.float32, attn_implementation="eager")
    model.tie_weights()
    return model


def _kinds(units: list[Unit], probed: ProbeResult) -> Iterator[ModuleKind]:
    """Group units of the same role into named kinds; slices follow their fused kind."""
    path_of = {unit.name: _path(unit) for unit in units}
    roles: dict[tuple[object, ...], list[Unit]] = defaultdict(list)
    for unit in _shared_across_layers(units, path_of):
        roles[_path(unit), unit.class_name, unit.group, unit.allowed, unit.tied_to == ""].append(unit)
    order = sorted(roles.values(), key=lambda members: (GROUPS.index(members[0].group), members[0].tower > 0))
    names = short_names([(_path(members[0]), _rank(members[0]), members[0].tower) for members in order])
    kind_of = {unit.name: name for name, members in zip(names, order, strict=True) for unit in members}
    taken = set(names)
    for name, members in zip(names, order, strict=True):
        parts, reason = _shared_parts(members, probed)
        kind = _kind(name, members, kind_of, reason)
        yield kind
        for part in _slices(kind, parts, taken):
            taken.add(part.name)
            yield part


def _shared_across_layers(units: list[Unit], path_of: dict[str, tuple[str, ...]]) -> Iterator[Unit]:
    """Units of one role that share a weight form one kind without treatments."""
    inner = {unit.name for unit in units if unit.tied_to and path_of[unit.tied_to] == path_of[unit.name]}
    shared = {path_of[name] for name in inner}
    for unit in units:
        if path_of[unit.name] in shared and (unit.name in inner or not unit.tied_to):
            yield replace(unit, tied_to="", allowed=((), SHARED))
        else:
            yield unit


def _kind(name: str, members: list[Unit], kind_of: dict[str, str], unsplit: str) -> ModuleKind:
    treatments, reason = members[0].allowed
    tied_to = members[0].tied_to
    return ModuleKind(
        name=name,
        group=members[0].group,
        modules=tuple(unit.name for unit in members),
        class_name=members[0].class_name,
        shapes=tuple(unit.shape for unit in members),
        parameters=sum(unit.parameters for unit in members),
        treatments=treatments,
        reason=reason or unsplit,
        layers=_layers(members),
        bias=any(unit.bias for unit in members),
        tied_to=kind_of[tied_to] if tied_to else None,
        tower=members[0].tower > 0,
        recurrent=all(unit.recurrent for unit in members),
        experts=members[0].experts,
    )


def _slices(kind: ModuleKind, parts: Slices, taken: set[str]) -> Iterator[ModuleKind]:
    for part, rows in parts.items():
        count = sum(end - start for start, end in rows)
        shapes = tuple((count, columns) for _, columns in kind.shapes)
        yield ModuleKind(
            name=kind.name + part if part[0] == "." else part if part not in taken else f"{kind.name}.{part}",
            group=kind.group,
            modules=kind.modules,
            class_name=kind.class_name,
            shapes=shapes,
            parameters=sum(count * (columns + kind.bias) for _, columns in shapes),
            treatments=("lora",),
            reason=f"Full training takes the whole module: tick {kind.name}.",
            layers=kind.layers,
            bias=kind.bias,
            slice_of=kind.name,
            rows=rows,
            recurrent=kind.recurrent,
        )


def _shared_parts(members: list[Unit], probed: ProbeResult) -> tuple[Slices, str]:
    """The slices of a fused kind, or why a kind with several roles has none."""
    if "lora" not in members[0].allowed[0]:
        return {}, ""
    twins = [probed.twins.get(unit.name, unit.name) for unit in members]
    found = [probed.parts.get(name, {}) for name in twins]
    if any(parts != found[0] for parts in found):
        return {}, "The roles of its rows differ between layers, so it is trained as a whole."
    if not found[0] and any(name in probed.mixed for name in twins):
        return {}, "Its rows have several roles that cannot be separated reliably, so it is trained as a whole."
    return found[0], ""


def _path(unit: Unit) -> tuple[str, ...]:
    """The path without the numbers of layers and experts."""
    parts = [part for part in unit.name.split(".") if not part.isdigit()]
    return tuple(parts[:-1] if unit.class_name == "Parameter" and parts[-1] == "weight" else parts)


def _rank(unit: Unit) -> int:
    """Priority for short names: kinds that take LoRA, the rest, then towers."""
    return 2 if unit.tower else int("lora" not in unit.allowed[0])


def _layers(members: list[Unit]) -> tuple[int, ...]:
    numbers = [re.search(r"\.(\d+)\.", unit.name) for unit in members]
    return tuple(int(number[1]) for number in numbers if number) if all(numbers) else ()


def _widest(units: list[Unit]) -> int:
    """Width of the widest MLP, of which the last linear maps back; 0 without MLPs."""
    return max((unit.shape[-1] for unit in units if unit.group == "mlp"), default=0)


def _number(config: PretrainedConfig, *names: str) -> int:
    """The first of these settings that is a positive integer; 0 if none is."""
    for name in names:
        try:
            value = getattr(config, name, None)
        except RuntimeError:  # it differs from layer to layer
            continue
        if isinstance(value, int) and value > 0:
            return value
    return 0
