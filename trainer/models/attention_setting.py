"""The attention that a model's decoder uses. transformers reads the setting at every forward pass."""

from __future__ import annotations

from typing import Any


def current_attention(model: Any) -> str:
    """Name of the attention that the decoder of `model` uses."""
    return str(model.config.get_text_config(decoder=True)._attn_implementation)


def use_attention(model: Any, name: str) -> None:
    """Let the decoder of `model` use the attention called `name`; towers, which text never reaches, keep theirs.

    transformers' own `set_attn_implementation` would change towers as well.
    """
    text = type(model.config.get_text_config(decoder=True))
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if type(config) is text:  # some models hold copies of it
            config._attn_implementation = name
