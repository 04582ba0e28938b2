"""Tiny versions of the configs of all causal LMs in transformers: same classes and flags, small sizes.

For tests of every architecture, and for the tables in docs/architectures.md. Not used for real models.
"""

from __future__ import annotations

import re
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from trainer.models.discovery.probing import CAUSAL

MODEL_TYPES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

VOCABULARY = 128
_SIZES: tuple[tuple[str, int], ...] = (
    (r"type_vocab_size|task_type_vocab_size", 2),
    (r".*vocab_size(_per_layer_input)?|encoder_hash_byte_group_vocab", VOCABULARY),
    (r"hidden_size_per_layer_input|ple_embed_dim", 8),
    (r"attention_hidden_size|backbone_hidden_size|router_hidden_size", 32),
    (
        r"hidden_size(_global)?|encoder_cross_output_size|adapter_(in_dim|out_dim|input_size)|d_model|n_embd|emb_dim|embedding_(size|dim)|word_embed_proj_dim|lru_width",
        32,
    ),
    (r"(input|output)_embedding_size|pronunciation_embed_dim|shape_embed_dim|output_hidden_size", 32),
    (r".*intermediate_size(_mlp)?|.*ffn_dim|.*ffn_hidden_size|dff|dim_ff|d_inner|feed_forward_size", 48),
    (r"(num_|encoder_|decoder_|swa_num_|num_encoder_|num_decoder_)?attention_heads|n_heads?|num_heads", 4),
    (r"(swa_)?head_dim|d_head|dim_head|kv_channels|attention_head_(dim|size)|v_head_dim|global_head_dim", 8),
    (r"swa_v_head_dim|qk_(nope|rope)_head_dim|index(er)?_head_dim|linear_(key|value)_head_dim|linear_head_dim", 8),
    (r"qk_head_dim", 16),
    (r"index_n_heads|linear_num_heads|linear_num_value_heads", 4),
    (r"linear_num_key_heads|num_query_groups", 2),
    (r"(q|kv|o)_lora_rank|laurel_rank|gated_norm_rank|hc_lowrank|adapter_rank", 16),
    (r"num_experts|n_routed_experts|num_local_experts|moe_num_experts", 4),
    (r"num_experts_per_tok(en)?|moe_k|moe_topk|top_k_experts", 2),
    (r"n_group|topk_group|num_expert_group|zero_expert_num|n_shared_experts|num_shared_experts", 1),
    (r"moe_num_shared_experts|first_k_dense_replace|num_dense_layers|num_kv_shared_layers", 1),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|max_(target|source)_positions", 64),
    (r"model_max_length|original_max_position_embeddings|rel_extent|mem_len", 64),
    (r"sliding_window(_size)?|window_size|attention_window_size|keep_window_size|local_attention", 8),
    (r"attention_chunk_size|index_topk|local_attention_window_len|chunk_size|mamba_chunk_size", 8),
    (r"mamba_d_state|state_size|ssm_state_size|time_step_rank|mamba_dt_rank|d_rel", 8),
    (r"mamba_n_heads|mamba_num_heads", 8),
    (r"mamba_d_head|mamba_headdim|mamba_head_dim", 8),
    (r"mamba_d_ssm", 64),
    (r"n_mamba_heads|n_groups|mamba_n_groups|o_groups|mamba_ngroups", 2),
    (r"rotary_dim|query_pre_attn_scalar", 8),
    (r"attn_layer_period|global_attn_every_n_layers|sliding_window_pattern|layer_group_size", 2),
    (r"attn_layer_offset|moe_layer_end_index|max_window_layers", 1),
    (r"image_size", 32),
    (r"patch_size", 16),
    (r"index_block_size|block_size|block_multiple_of|ffn_round_up_to_multiple_of|dim_model_base", 8),
    (r"ngram_vocab_size_base", 64),
    (r"split_ngram_parts", 4),
    (r"num_centroids", 8),
    (r"prompt_mid_dim|classifier_proj_size", 16),
)
_DEPTH = re.compile(
    "num_hidden_layers|n_layers?|num_layers|num_blocks|num_layers_per_stack|(num_)?(en|de)coder_layers"
)
_TOKEN = re.compile(r".*_token_id|.*_token_index|.*(unk|mask)_index|boi_.*|eoi_.*")

# What a type needs if its defaults do not build or run.
_QSA = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "output_gate_type": "sigmoid",
}
_NEEDED: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {
        "layer_types": ["full_attention", "sliding_attention"] * 20,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")
        },
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "num_experts": 4, "moe_topk": 2},
    "lfm2_moe": {"layer_types": ["full_attention", "conv", "conv", "full_attention"] * 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 8},
    "qwen4_exp": {"text_config": _QSA},
    "qwen4_exp_text": _QSA,
    "reformer": {"is_decoder": True},
}
_HYBRID = {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4}
# What a type needs besides the sizes above, to be consistent or to have all its kinds of layers.
_ALSO: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "flint": {"mlp_only_layers": [0]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 2,
        "num_hashes": 1,
    },
    "zamba": {**_HYBRID, "attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba2": {
        **_HYBRID,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "hybrid_layer_ids": [1, 3],
        "mamba_headdim": 32,
        "n_mamba_heads": 2,
    },
}
_DRAFTER = "a drafter: it runs on the states of another model only"
_COMPOSITE = "transformers builds its decoder from the composite config, which lacks the decoder's settings"
NOT_BUILT: dict[str, str] = {
    "gemma3n": "its vision tower needs the package timm",
    "gemma4_assistant": _DRAFTER,
    "gemma4_unified_assistant": _DRAFTER,
    "musicgen": _COMPOSITE,
    "musicgen_melody": _COMPOSITE,
}
"""Types that cannot be built here, with the reason."""


def tiny_config(model_type: str) -> PretrainedConfig:
    """A config of this type that builds a model of a few tens of thousands of parameters.

    Raises KeyError if the type is not a causal LM in transformers, ValueError with the reason if it cannot be built.
    """
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise KeyError(model_type)
    if model_type in NOT_BUILT:
        raise ValueError(f"{model_type}: {NOT_BUILT[model_type]}")
    return shrink(CONFIG_MAPPING[model_type](**_NEEDED.get(model_type, {})))


def shrink(config: PretrainedConfig) -> PretrainedConfig:
    """A small, causal version of `config`: its class, its flags, one layer of each kind, at least two."""
    causal = {key: required for key, (value, required) in CAUSAL.items() if getattr(config, key, None) == value}
    return type(config)(**{**_values(config), **causal})


def _values(config: PretrainedConfig) -> dict[str, Any]:
    kept = {k: v for k, v in vars(config).items() if not k.startswith(("_", "ignore_keys_at_rope"))}
    depth = next((v for k, v in kept.items() if _DEPTH.fullmatch(k) and isinstance(v, int)), 0)
    layers = _layers_shown(kept, depth)
    values: dict[str, Any] = {}
    for key, value in kept.items():
        if isinstance(value, PretrainedConfig):
            values[key] = {**_values(value), "model_type": value.model_type}
        elif _is_index(value):
            values[key] = [layer for layer in value if layer < len(layers)]
        elif isinstance(value, list | tuple) and depth > 1 and len(value) == depth:
            values[key] = [_size(key, value[layer]) for layer in layers]
        elif _DEPTH.fullmatch(key) and isinstance(value, int):
            values[key] = len(layers)
        elif re.fullmatch("num_key_value_heads|num_kv_heads|swa_num_key_value_heads", key):
            values[key] = _key_value_heads(value, kept)
        else:
            values[key] = _size(key, value)
    return {**values, **_ALSO.get(config.model_type, {})}


def _layers_shown(kept: dict[str, Any], depth: int) -> list[int]:
    """The first layer of each kind, judging by the lists with one entry per layer; at least two layers."""
    lists = [v for v in kept.values() if isinstance(v, list | tuple) and len(v) == depth and not _is_index(v)]
    sorts = list(zip(*(map(str, values) for values in lists), strict=True)) or [()] * depth
    first = sorted({sort: sorts.index(sort) for sort in sorts}.values())
    return first if len(first) > 1 else [0, min(1, max(depth - 1, 0))]


def _is_index(value: Any) -> bool:
    """Whether a setting is a list of layer indices."""
    numbers = isinstance(value, list) and len(value) > 2 and all(type(item) is int for item in value)
    return numbers and value[0] < 2 and value == sorted(set(value))


def _key_value_heads(value: int | None, kept: dict[str, Any]) -> int | None:
    heads = next((kept[key] for key in ("num_attention_heads", "n_head", "num_heads") if key in kept), value)
    return value if value is None or value == 1 else 4 if value == heads else 2


def _size(key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        return [_size(key, item) for item in value] if isinstance(value, list) and _TOKEN.fullmatch(key) else value
    if _TOKEN.fullmatch(key):
        return value % VOCABULARY
    small = next((size for pattern, size in _SIZES if re.fullmatch(pattern, key)), value)
    return min(small, value) if value > 0 else value
