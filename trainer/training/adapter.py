"""Wraps the model with PEFT so that exactly the plan's targets train, and verifies that they do.

A slice of a fused projection is one LoRA over the whole module whose `lora_B` is masked: only the rows
of the slice in the slice's own columns may move. B starts at zero, so the rest stays zero with any
optimizer and weight decay, and the saved adapter is a plain PEFT one.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import activations
from transformers.initialization import guard_torch_init_functions

from trainer.common.errors import UserError
from trainer.config.schema import AdapterConfig
from trainer.models.module_map import ModuleMap
from trainer.planning.lora_arguments import lora_arguments, with_tied
from trainer.planning.parameter_counts import tensor_sizes, trainable_count
from trainer.planning.plan import Plan
from trainer.planning.targets import Target

_LORA = re.compile(
    r"base_model\.model\.(.+)\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)\.default(?:\.weight)?"
)
_FULL = re.compile(r"base_model\.model\.(.+)\.modules_to_save\.default\.(.+)")
_ROWS = re.compile(r"base_model\.model\.(.+)\.token_adapter\.trainable_tokens_delta\.default")
_BIAS = re.compile(r"base_model\.model\.(.+)\.base_layer\.bias")


def peft_config(
    targets: Iterable[Target],
    adapter: AdapterConfig,
    module_map: ModuleMap,
    new_tokens: Sequence[int] = (),
    exclude: Iterable[str] = (),
) -> LoraConfig:
    """The PEFT configuration of `targets`, with full paths only, never names to match.

    `exclude`: modules that are not targets, although their paths end like a target's.
    """
    targets = list(targets)
    return LoraConfig(
        **lora_arguments(targets, adapter, module_map),
        trainable_token_indices={t.module: list(new_tokens) for t in targets if t.treatment == "rows"} or None,
        exclude_modules=list(exclude) or None,
    )


def attach(
    model: nn.Module, plan: Plan, adapter: AdapterConfig, module_map: ModuleMap, new_tokens: Sequence[int] = ()
) -> PeftModel:
    """Wrap `model` so that the plan's targets train and nothing else does.

    `new_tokens`: ids of new tokens whose rows are trained. Raises UserError if PEFT rejects a target.
    """
    exclude = _modules_with_same_ending(model, plan.targets)
    return wrap(model, peft_config(plan.targets, adapter, module_map, new_tokens, exclude), plan, module_map)


def wrap(model: nn.Module, config: LoraConfig, plan: Plan, module_map: ModuleMap) -> PeftModel:
    """Wrap `model` as `config` says, whose targets are the plan's. Raises UserError if PEFT rejects one."""
    # `no_init_weights` empties torch's init functions process-wide: LoRA would start from uninitialized memory
    with warnings.catch_warnings(), guard_torch_init_functions():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        try:
            wrapped = get_peft_model(model, config)
        except ValueError as error:
            raise UserError(
                f"PEFT rejects this selection: {str(error)[:300]}", "Untick the module that it names."
            ) from error
    _tie_copies(wrapped, plan.targets, module_map)
    return wrapped


def prepare(model: PeftModel, plan: Plan, compute_dtype: torch.dtype) -> None:
    """Final preparations, also after a resume: float32 master weights, learning rates, slice masks.

    Call it after the trainer is built: TRL casts trainable weights on a quantized base to bfloat16,
    which loses small updates.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for target in plan.targets:
        for parameter in parameters(model, target):
            parameter.peak_lr = target.lr  # type: ignore[attr-defined]
        if target.slices:
            _mask(model.base_model.model.get_submodule(target.module), target)
    if compute_dtype != torch.float32:
        _keep_compute_dtype(model, compute_dtype)


def parameters(model: PeftModel, target: Target) -> list[nn.Parameter]:
    """A target's trainable parameters in PEFT: LoRA matrices, magnitudes and bias, a copy, or rows."""
    module: Any = model.base_model.model.get_submodule(holder(target))
    name = target.module.rpartition(".")[2]
    while target.kind.class_name == "Parameter" and module.parameter_name != name:
        module = module.base_layer  # several parameters of one module: a wrapper around a wrapper
    if target.treatment == "lora":
        parts = [getattr(module, part, None) for part in (*module.adapter_layer_names, "lora_magnitude_vector")]
        found = [parameter for part in parts if part is not None for parameter in part.parameters()]
        found.append(getattr(module.base_layer, "bias", None))
    elif target.treatment == "full":
        found = list(module.modules_to_save.parameters())
    else:
        found = list(module.token_adapter.trainable_tokens_delta.parameters())
    return [parameter for parameter in found if parameter is not None and parameter.requires_grad]


def _keep_compute_dtype(model: PeftModel, dtype: torch.dtype) -> None:
    """Cast float32 outputs back to `dtype`, so that the residual stream does not become float32.

    These are outputs of trained embeddings, and of operations that autocast computes in float32 on a GPU
    (ATen/autocast_mode.h): LayerNorm, and the powers and exponentials in activation functions.
    """
    embedding = model.get_input_embeddings()
    trains = any(parameter.requires_grad for parameter in embedding.parameters())
    widens = [m for m in model.modules() if isinstance(m, nn.LayerNorm) or type(m).__module__ == activations.__name__]
    for module in [embedding] * trains + widens:
        module.register_forward_hook(lambda _module, _inputs, output: output.to(dtype))


def verify(model: PeftModel, plan: Plan, adapter: AdapterConfig, module_map: ModuleMap) -> None:
    """Compare the plan with the parameters that require gradients. Raises UserError if they differ."""
    real: dict[tuple[str, str], int] = {}
    for owner, name in owners(model, plan, module_map):
        real[owner] = real.get(owner, 0) + model.get_parameter(name).numel()
    planned: dict[tuple[str, str], int] = {}
    for target in plan.targets:
        key = (holder(target), target.treatment)
        planned[key] = planned.get(key, 0) + sum(tensor_sizes(target, adapter, module_map))
    for module, treatment in real.keys() | planned.keys():
        there, wanted = (counts.get((module, treatment), 0) for counts in (real, planned))
        if there != wanted:
            raise UserError(
                f"The plan and the model differ at {module} ({treatment}): "
                f"planned {wanted:,} parameters, found {there:,}.",
                "Nothing was trained. Please report this with the run's config.json.",
                "bug",
            )


def owners(model: PeftModel, plan: Plan, module_map: ModuleMap) -> list[tuple[tuple[str, str], str]]:
    """For every parameter that requires a gradient: its (module, treatment) and its name.

    A tied weight belongs to the module that owns it in the map, wherever the model lists it first.
    """
    shared = {
        id(model.base_model.model.get_submodule(target.module).modules_to_save["default"].weight): target.module
        for target in plan.targets
        if target.treatment == "full" and not target.kind.tied_to and len(with_tied(target, module_map)) > 1
    }
    found = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            module, treatment = _owner(name)
            found.append(((shared.get(id(parameter), module), treatment), name))
    return found


def holder(target: Target) -> str:
    """The module under whose name PEFT stores the target; for expert parameters, the module that holds them."""
    return target.module.rpartition(".")[0] if target.kind.class_name == "Parameter" else target.module


def trainable_parameters(model: PeftModel, treatment: str) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that require a gradient and belong to `treatment`: lora, full or rows."""
    return [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and _owner(name)[1] == treatment
    ]


def trainable_entries(model: PeftModel, plan: Plan, adapter: AdapterConfig) -> int:
    """Trainable parameters: all that require a gradient, minus the masked ones."""
    masked = sum(
        parameter.numel() - int(parameter.slice_mask.sum())
        for parameter in model.parameters()
        if parameter.requires_grad and hasattr(parameter, "slice_mask")
    )
    total = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert total - masked <= sum(trainable_count(target, adapter) for target in plan.targets) or not plan.targets
    return int(total - masked)


def _modules_with_same_ending(model: nn.Module, targets: Iterable[Target]) -> list[str]:
    """Modules that PEFT would match as LoRA targets because their paths end with a target's."""
    lora = {target.module for target in targets if target.treatment == "lora"}
    return [
        name
        for name, _ in model.named_modules()
        if name not in lora and any(name.endswith(f".{module}") for module in lora)
    ]


def _tie_copies(model: PeftModel, targets: Iterable[Target], module_map: ModuleMap) -> None:
    """Keep fully trained tied modules tied: their copies share a weight; other parameters train if ticked."""
    full = [target for target in targets if target.treatment == "full"]
    named = {target.module for target in full}
    for target in full:
        if target.kind.tied_to:
            continue  # its weight is another target's
        first, *others = (model.base_model.model.get_submodule(name) for name in with_tied(target, module_map))
        for name, other in zip(with_tied(target, module_map)[1:], others, strict=True):
            copy = other.modules_to_save["default"]
            for key, parameter in copy.named_parameters():
                parameter.requires_grad_(name in named or key == "weight")
            copy.weight = first.modules_to_save["default"].weight


def _mask(module: Any, target: Target) -> None:
    """Train only the slices' blocks of `lora_B` and rows of DoRA's magnitude, each at its own rate."""
    weight = module.lora_B["default"].weight
    mask = torch.zeros_like(weight, dtype=torch.bool)
    of_columns, of_rows = weight.new_ones(weight.shape[1]), weight.new_ones(weight.shape[0])
    for part in target.slices:
        of_columns[part.columns[0] : part.columns[1]] = part.lr / target.lr
        for start, end in part.rows:
            mask[start:end, part.columns[0] : part.columns[1]] = True
            of_rows[start:end] = part.lr / target.lr
    parts = [(weight, mask, of_columns), (module.lora_A["default"].weight, None, of_columns.unsqueeze(1))]
    bias = getattr(module.base_layer, "bias", None)
    if bias is not None and bias.requires_grad:
        parts.append((bias, mask.any(dim=1), of_rows))
    if "default" in module.lora_magnitude_vector:
        magnitude = module.lora_magnitude_vector["default"].weight
        parts.append((magnitude, mask.any(dim=1).view_as(magnitude), of_rows.view_as(magnitude)))
    for parameter, free, rates in parts:
        if free is not None:
            _mask_gradient(parameter, free)
        if any(part.lr != target.lr for part in target.slices):
            parameter.lr_scale = rates


def _mask_gradient(parameter: nn.Parameter, mask: torch.Tensor) -> None:
    parameter.slice_mask = mask  # type: ignore[attr-defined]
    parameter.register_hook(lambda gradient: gradient * mask)  # type: ignore[no-untyped-call]


def _owner(name: str) -> tuple[str, str]:
    """Module of the base model and treatment that a trainable parameter belongs to."""
    for pattern, treatment in ((_LORA, "lora"), (_FULL, "full"), (_ROWS, "rows"), (_BIAS, "lora")):
        match = pattern.fullmatch(name)
        if match:
            return match.group(1).replace(".base_layer", ""), treatment
    return name, "unknown"
