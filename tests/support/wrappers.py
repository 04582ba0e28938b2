"""Tiny image-text models, as published: a language model, and a vision tower that text never uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, PreTrainedConfig

from tests.support import tiny

_TEXT: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_PIXTRAL = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 8,
    "image_size": 56,
    "patch_size": 14,
}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
    "vision_use_head": False,
}
_QWEN = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "out_hidden_size": 32,
    "patch_size": 14,
    "fullatt_block_indexes": [1],
    "window_size": 112,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "mistral3": {
        "text_config": {"model_type": "mistral", "tie_word_embeddings": False, **_TEXT},
        "vision_config": _PIXTRAL,
        "image_token_index": 10,
        "tie_word_embeddings": False,
    },
    "qwen2_5_vl": {
        "text_config": {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}, **_TEXT},
        "vision_config": _QWEN,
        "image_token_id": 290,
        "video_token_id": 291,
        "vision_start_token_id": 292,
        "vision_end_token_id": 293,
        "tie_word_embeddings": True,
    },
    "qwen3_vl": {
        "text_config": {
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [2, 1, 1]},
            **_TEXT,
        },
        "vision_config": {**_QWEN, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        "image_token_id": 290,
        "video_token_id": 291,
        "vision_start_token_id": 292,
        "vision_end_token_id": 293,
    },
    "gemma3": {
        "text_config": {"model_type": "gemma3_text", "sliding_window": 16, "query_pre_attn_scalar": 8, **_TEXT},
        "vision_config": _SIGLIP,
        "image_token_index": 290,
        "boi_token_index": 291,
        "eoi_token_index": 292,
        "mm_tokens_per_image": 4,
    },
    "llava": {
        "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {**_SIGLIP, "model_type": "clip_vision_model"},
        "image_token_index": 290,
    },
}
"""The config.json of each type, without its model_type."""


def config(kind: str) -> PreTrainedConfig:
    return CONFIG_MAPPING[kind](**json.loads(json.dumps(CONFIGS[kind])))


def save_wrapper(folder: Path, kind: str) -> Path:
    """Save a tiny model of this type, in its published format, and its tokenizer into `folder`."""
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config(kind)).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder
