"""What a model's forward pass keeps for its backward pass, as far as names and shapes do not tell it."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from trainer.modules import Forward

_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "ffn_act", "activation")
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")


def forward_facts(model: PreTrainedModel, text: PretrainedConfig) -> Forward:
    """The facts of `model`, whose decoder `text` describes."""
    return Forward(
        rotary=bool(getattr(text, "rope_parameters", None) or getattr(text, "rotary_dim", None)),
        sdpa=bool(model._supports_sdpa),
        softcap=bool(getattr(text, "attn_logit_softcapping", None)),
        activation_copies=next((kept_by(getattr(text, name)) for name in _ACTIVATIONS if hasattr(text, name)), 1),
        experts_per_token=max(1, *(_whole(getattr(text, name, None)) for name in _EXPERTS_PER_TOKEN)),
    )


@cache
def kept_by(activation: str | None) -> int:
    """Tensors as wide as its input that an activation function of transformers keeps; 1 if it is unknown."""
    if not isinstance(activation, str) or activation not in ACT2FN:
        return 1
    kept: set[int] = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() == x.numel():
            kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    x = torch.ones(8, 8, requires_grad=True)
    function: nn.Module = ACT2FN[activation]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = function(x)
    return max(1, len(kept)) if y.shape == x.shape else 1


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
