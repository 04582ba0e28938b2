"""Measures what a forward pass saves for the backward pass beyond what names and shapes show."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from trainer.models.discovery.attention_calls import watched_head_size
from trainer.models.discovery.autocast import GpuAutocastWidening
from trainer.models.module_map import Forward

_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "ffn_act", "activation")
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
_ATTENTION_DROPOUT = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")


def forward_facts(model: PreTrainedModel, text: PretrainedConfig, hidden: int, **inputs: Any) -> Forward:
    """The facts of `model`, a skeleton, whose decoder `text` describes; `hidden` is the width of its residual stream.

    `inputs`: what it needs besides token ids.
    """
    activation = next((getattr(text, name) for name in _ACTIVATIONS if hasattr(text, name)), None)
    dropout = any(getattr(text, name, None) for name in _ATTENTION_DROPOUT)
    replaceable = model._can_set_attn_implementation() and not dropout
    head_size = watched_head_size(model, **inputs) if replaceable and model._supports_flash_attn else 0
    return Forward(
        rotary=bool(getattr(text, "rope_parameters", None) or getattr(text, "rotary_dim", None)),
        sdpa=bool(model._supports_sdpa),
        softcap=bool(getattr(text, "attn_logit_softcapping", None)),
        sinks=any("sink" in name.rpartition(".")[2] for name, _ in model.named_parameters()),
        flash=head_size > 0,
        flex=replaceable and bool(model._supports_flex_attn),
        head_size=head_size,
        activation_bytes=kept_by_activation(activation, torch.bfloat16),
        activation_bytes_float32=kept_by_activation(activation, torch.float32),
        plain_norms=len(_plain_norms(model, hidden)) // max(1, _whole(getattr(text, "num_hidden_layers", None))),
        norm_bytes=kept_by_norm(model, hidden, torch.bfloat16),
        norm_bytes_float32=kept_by_norm(model, hidden, torch.float32),
        experts_per_token=_experts_per_token(text),
    )


@cache
def kept_by_activation(name: str | None, dtype: torch.dtype) -> int:
    """Bytes per number that an activation function of transformers keeps; those of its input if it is unknown."""
    width = torch.tensor([], dtype=dtype).element_size()
    if not isinstance(name, str) or name not in ACT2FN:
        return width
    return _kept(ACT2FN[name], torch.ones(8, 8, dtype=dtype)) or width


def kept_by_norm(model: PreTrainedModel, hidden: int, dtype: torch.dtype) -> int:
    """Bytes per element that a norm over the hidden states saves; a float32 copy if no norm is found."""
    sizes = {name: parameter.shape for name, parameter in model.named_parameters() if parameter.dim() == 1}
    plain = _plain_norms(model, hidden)
    for name, module in model.named_modules():
        if _is_norm(module) and (sizes.get(f"{name}.weight") == (hidden,) or name in plain):
            return _kept(deepcopy(module).to_empty(device="cpu").to(dtype), torch.ones(8, hidden, dtype=dtype)) or 4
    return 4


def _plain_norms(model: PreTrainedModel, hidden: int) -> set[str]:
    """Norms over the hidden states that have no weights, and so are of no kind."""
    norms = {name: module for name, module in model.named_modules() if _is_norm(module)}
    sizes = {name: getattr(module, "normalized_shape", None) for name, module in norms.items()}
    return {name for name, size in sizes.items() if size == (hidden,) and not list(norms[name].parameters())}


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _kept(module: nn.Module, values: torch.Tensor) -> int:
    """Bytes per number of `values` that `module` keeps for its backward pass, under a GPU's autocast; 0: unknown."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() == values.numel():
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    values.requires_grad_()
    module.requires_grad_(False)
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), GpuAutocastWidening():
            shape = module(values).shape
    except (TypeError, RuntimeError, ValueError, AttributeError):  # it wants more than its input
        return 0
    return sum(kept.values()) // values.numel() if shape == values.shape else 0


def _experts_per_token(text: PretrainedConfig) -> int:
    """Experts that compute each token; 1 if there are none."""
    if text.model_type == "llama4_text":  # all of them do, and what is not wanted is multiplied by zero
        return max(1, _whole(text.num_local_experts))
    return max(1, *(_whole(getattr(text, name, None)) for name in _EXPERTS_PER_TOKEN))


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
