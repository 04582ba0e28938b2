"""Takes everything off a base model that was put on it for one training, so that it can carry the next adapter.

PEFT's own `unload` leaves modules that trained in full in place of the base's, and knows nothing of the hooks,
patched methods and switches that a trainer adds. Here the module tree, its attributes and its tensors are as they
were before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trainer.models.attention_setting import current_attention, use_attention


class BaseState:
    """The state of a base model that carries no adapter. Holds references; copies only what a training changes."""

    def __init__(self, base: nn.Module) -> None:
        self._base, self._attention = base, current_attention(base)
        self._modules = [(module, _copied(vars(module))) for module in base.modules()]
        self._tensors = [(weight, weight.data, weight.requires_grad) for weight in base.parameters()]
        self._values: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep_trained(self) -> None:
        """Copy the base's own weights that now require a gradient, such as biases; call it before the first step."""
        trained = [data for weight, data, _ in self._tensors if weight.requires_grad]
        self._values = [(data, data.clone()) for data in trained]

    def restore(self) -> None:
        """Bring the base back to this state, bit for bit."""
        for module, attributes in self._modules:
            now = vars(module)
            for name in now.keys() - attributes.keys():
                del now[name]
            for name, value in attributes.items():
                if isinstance(value, dict) and isinstance(now.get(name), dict):  # the same dict: hooks refer to it
                    now[name].clear()
                    now[name].update(value)
                else:
                    now[name] = value
        for weight, data, trains in self._tensors:
            weight.data, weight.grad = data, None
            weight.requires_grad_(trains)
        for data, value in self._values:
            data.copy_(value)
        use_attention(self._base, self._attention)


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a module; its dicts (submodules, parameters, buffers, hooks) copied."""
    return {name: value.copy() if isinstance(value, dict) else value for name, value in attributes.items()}
