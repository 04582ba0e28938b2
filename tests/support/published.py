"""Configurations of published models, reduced to what differs from their type's defaults in transformers.

Written from the models' own config.json, without settings that change neither a shape nor the data flow of text.
`parameters` is the exact count. If `source` is KNOWN, it is the widely published number, so the configuration and the
map are checked against an external source; otherwise, published counts differ in method (tied heads twice, extra
prediction layers) or are only given in billions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

KNOWN = "the model's page or paper"
MODEL = "the model that transformers builds"


@dataclass(frozen=True)
class Published:
    type: str
    parameters: int
    config: dict[str, Any] = field(default_factory=dict)
    source: str = KNOWN


def make_config(name: str) -> PretrainedConfig:
    """The configuration of a published model; raises KeyError if it is not listed."""
    model = ALL[name]
    return CONFIG_MAPPING[model.type](**model.config)


def _alternate(period: int, count: int, last: str, others: str) -> list[str]:
    """`count` layers, of which every `period`-th is `last`."""
    return [last if (layer + 1) % period == 0 else others for layer in range(count)]


def _hybrid(pattern: str, letters: dict[str, str]) -> list[str]:
    return [letters[letter] for letter in pattern]


# fmt: off
_LLAMA3 = {"vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5}
_QWEN25 = {"vocab_size": 151936, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6}
_QWEN3 = {"vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 40960}
_NEMOTRON = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}

_GRANITE4 = {
    "vocab_size": 100352, "num_hidden_layers": 40, "tie_word_embeddings": True, "mamba_d_head": 64,
    "mamba_d_state": 128, "mamba_n_groups": 1, "position_embedding_type": "nope",
    "layer_types": ["full_attention" if layer % 10 == 5 else "linear_attention" for layer in range(40)],
}

DENSE: dict[str, Published] = {
    "openai-community/gpt2": Published("gpt2", 124_439_808),
    "EleutherAI/pythia-1.4b": Published(
        "gpt_neox",
        1_414_647_808,
        {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 16, "num_hidden_layers": 24,
         "vocab_size": 50304},
    ),
    "bigscience/bloom-7b1": Published(
        "bloom", 7_069_016_064, {"hidden_size": 4096, "n_layer": 30, "n_head": 32, "vocab_size": 250880}
    ),
    "tiiuae/falcon-7b": Published("falcon", 6_921_720_704, source=MODEL),
    "microsoft/phi-2": Published(
        "phi",
        2_779_683_840,
        {"hidden_size": 2560, "intermediate_size": 10240, "num_attention_heads": 32, "num_hidden_layers": 32,
         "vocab_size": 51200, "partial_rotary_factor": 0.4},
    ),
    "microsoft/Phi-3.5-mini-instruct": Published("phi3", 3_821_079_552, {"max_position_embeddings": 131072}),
    "microsoft/Phi-3-medium-128k-instruct": Published(
        "phi3",
        13_960_238_080,
        {"hidden_size": 5120, "intermediate_size": 17920, "num_attention_heads": 40, "num_key_value_heads": 10,
         "num_hidden_layers": 40, "max_position_embeddings": 131072},
    ),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": Published(
        "llama",
        1_100_048_384,
        {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_key_value_heads": 4},
    ),
    "meta-llama/Meta-Llama-3-8B": Published("llama", 8_030_261_248, {"intermediate_size": 14336, **_LLAMA3}),
    "meta-llama/Llama-3.2-1B": Published(
        "llama",
        1_235_814_400,
        {**_LLAMA3, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
         "tie_word_embeddings": True},
    ),
    "meta-llama/Llama-3.3-70B-Instruct": Published(
        "llama",
        70_553_706_496,
        {**_LLAMA3, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
         "num_attention_heads": 64},
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Published(
        "llama",
        134_515_008,
        {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
         "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    ),
    "mistralai/Mistral-7B-v0.1": Published("mistral", 7_241_732_096),
    "Qwen/Qwen2.5-0.5B": Published(
        "qwen2",
        494_032_768,
        {**_QWEN25, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
         "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True},
    ),
    "Qwen/Qwen2.5-7B-Instruct": Published(
        "qwen2",
        7_615_616_512,
        {**_QWEN25, "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
         "num_attention_heads": 28, "num_key_value_heads": 4},
    ),
    "Qwen/Qwen3-0.6B": Published(
        "qwen3",
        596_049_920,
        {**_QWEN3, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
         "num_attention_heads": 16, "tie_word_embeddings": True},
    ),
    "Qwen/Qwen3-8B": Published(
        "qwen3",
        8_190_735_360,
        {**_QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
         "num_attention_heads": 32},
    ),
    "google/gemma-2-2b-it": Published("gemma2", 2_614_341_888),
    "google/gemma-2-9b-it": Published(
        "gemma2",
        9_241_705_984,
        {"hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42, "num_attention_heads": 16,
         "num_key_value_heads": 8},
    ),
    "google/gemma-3-1b-it": Published(
        "gemma3_text",
        999_885_952,
        {"vocab_size": 262144, "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26,
         "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256},
    ),
    "bigcode/starcoder2-3b": Published("starcoder2", 3_030_371_328),
    "allenai/OLMo-2-1124-7B": Published(
        "olmo2", 7_298_617_344, {"vocab_size": 100352, "intermediate_size": 11008, "max_position_embeddings": 4096}
    ),
    "CohereLabs/c4ai-command-r7b-12-2024": Published(
        "cohere2",
        8_028_033_024,
        {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 32,
         "num_key_value_heads": 8, "sliding_window_pattern": 4},
    ),
}

EXPERTS: dict[str, Published] = {
    "mistralai/Mixtral-8x7B-v0.1": Published("mixtral", 46_702_792_704),
    "Qwen/Qwen1.5-MoE-A2.7B": Published("qwen2_moe", 14_315_784_192),
    "Qwen/Qwen3-30B-A3B": Published(
        "qwen3_moe", 30_532_122_624, {"num_experts": 128, "num_hidden_layers": 48, "head_dim": 128}
    ),
    "Qwen/Qwen3-235B-A22B": Published(
        "qwen3_moe",
        235_093_634_560,
        {"hidden_size": 4096, "moe_intermediate_size": 1536, "num_attention_heads": 64, "num_experts": 128,
         "num_hidden_layers": 94, "head_dim": 128},
    ),
    "allenai/OLMoE-1B-7B-0924": Published("olmoe", 6_919_161_856, {"intermediate_size": 1024}),
    "deepseek-ai/DeepSeek-V2-Lite": Published(
        "deepseek_v2",
        15_706_484_224,
        {"hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_attention_heads": 16,
         "num_key_value_heads": 16, "num_hidden_layers": 27, "first_k_dense_replace": 1, "q_lora_rank": None,
         "num_experts_per_tok": 6, "n_group": 1, "topk_group": 1},
    ),
    "deepseek-ai/DeepSeek-V3": Published("deepseek_v3", 671_026_404_352, source=MODEL),
    "openai/gpt-oss-20b": Published("gpt_oss", 20_914_757_184, {"num_hidden_layers": 24, "num_local_experts": 32}),
    "openai/gpt-oss-120b": Published("gpt_oss", 116_829_156_672),
    "microsoft/Phi-3.5-MoE-instruct": Published(
        "phimoe",
        41_873_153_344,
        {"hidden_size": 4096, "intermediate_size": 6400, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 8, "attention_bias": True, "lm_head_bias": True, "num_local_experts": 16},
    ),
    "zai-org/GLM-4.5-Air": Published(
        "glm4_moe", 106_852_245_504, {"head_dim": 128, "attention_bias": True, "use_qk_norm": False}, MODEL
    ),
    "MiniMaxAI/MiniMax-Text-01-hf": Published(
        "minimax",
        456_089_655_296,
        {"vocab_size": 200064, "hidden_size": 6144, "intermediate_size": 9216, "num_hidden_layers": 80,
         "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 32,
         "layer_types": _alternate(8, 80, "full_attention", "linear_attention")},
        MODEL,
    ),
    "google/gemma-4-26B-A4B": Published(
        "gemma4",
        25_805_933_872,
        {
            "text_config": {
                "attention_k_eq_v": True, "enable_moe_block": True, "hidden_size": 2816, "intermediate_size": 2112,
                "moe_intermediate_size": 704, "num_experts": 128, "top_k_experts": 8, "num_hidden_layers": 30,
                "num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 2, "head_dim": 256,
                "global_head_dim": 512, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
                "use_double_wide_mlp": False, "vocab_size": 262144,
                "layer_types": _alternate(6, 30, "full_attention", "sliding_attention"),
            },
            "vision_config": {
                "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
                "num_key_value_heads": 16, "head_dim": 72, "global_head_dim": 72,
            },
            "audio_config": None,
        },
        MODEL,
    ),
}

HYBRIDS: dict[str, Published] = {
    "ai21labs/Jamba-v0.1": Published("jamba", 51_570_323_328),
    "Qwen/Qwen3-Next-80B-A3B-Instruct": Published("qwen3_next", 79_674_391_296, source=MODEL),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B": Published(
        "nemotron_h",
        31_577_937_344,
        {"vocab_size": 131072, "hidden_size": 2688, "intermediate_size": 1856, "num_attention_heads": 32,
         "head_dim": 128, "num_key_value_heads": 2,
         "layers_block_type": _hybrid("MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", _NEMOTRON),
         "mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8, "expand": 2,
         "n_routed_experts": 128, "n_shared_experts": 1, "num_experts_per_tok": 6, "moe_intermediate_size": 1856,
         "moe_shared_expert_intermediate_size": 3712, "n_group": 1, "topk_group": 1, "tie_word_embeddings": False},
        MODEL,
    ),
    "LiquidAI/LFM2-1.2B": Published(
        "lfm2",
        1_170_340_608,
        {"hidden_size": 2048, "intermediate_size": 12288, "num_hidden_layers": 16, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 65536, "block_ff_dim": 12288, "block_auto_adjust_ff_dim": True,
         "full_attn_idxs": [2, 5, 8, 10, 12, 14]},
    ),
    "LiquidAI/LFM2-8B-A1B": Published(
        "lfm2_moe",
        8_339_929_856,
        {"hidden_size": 2048, "num_hidden_layers": 24,
         "layer_types": ["full_attention" if layer in (2, 6, 10, 14, 18, 21) else "conv" for layer in range(24)]},
    ),
    "moonshotai/Kimi-Linear-48B-A3B": Published("kimi_linear", 49_133_074_464, source=MODEL),
    "tiiuae/Falcon-H1-0.5B-Base": Published(
        "falcon_h1",
        521_411_104,
        {"vocab_size": 32784, "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 36,
         "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "mamba_d_ssm": 1536,
         "mamba_n_heads": 24, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1},
    ),
    "nvidia/Nemotron-H-8B-Base-8K": Published(
        "nemotron_h",
        8_100_852_736,
        {"vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 21504, "num_attention_heads": 32,
         "head_dim": 128, "num_key_value_heads": 8,
         "layers_block_type": _hybrid("M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-", _NEMOTRON),
         "mamba_num_heads": 128, "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8, "expand": 2,
         "tie_word_embeddings": False},
        MODEL,
    ),
    "ibm-granite/granite-4.0-h-tiny": Published(
        "granitemoehybrid",
        6_939_037_248,
        {**_GRANITE4, "hidden_size": 1536, "intermediate_size": 512, "shared_intermediate_size": 1024,
         "num_attention_heads": 12, "num_key_value_heads": 4, "num_local_experts": 64, "num_experts_per_tok": 6,
         "mamba_n_heads": 48},
    ),
    "ibm-granite/granite-4.0-h-small": Published(
        "granitemoehybrid",
        32_207_337_984,
        {**_GRANITE4, "hidden_size": 4096, "intermediate_size": 768, "shared_intermediate_size": 1536,
         "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 72, "num_experts_per_tok": 10,
         "mamba_n_heads": 128},
    ),
    "Zyphra/Zamba-7B-v1": Published("zamba", 7_232_490_496, source=MODEL),
    "google/recurrentgemma-2b": Published(
        "recurrent_gemma", 2_682_862_080, {"intermediate_size": 15360, "num_key_value_heads": 1}
    ),
    "ibm-ai-platform/Bamba-9B": Published(
        "bamba", 9_780_235_392, {"vocab_size": 128256, "attn_layer_indices": [9, 18, 27], "mamba_d_state": 128}, MODEL
    ),
    "tiiuae/falcon-mamba-7b": Published(
        "falcon_mamba",
        7_272_665_088,
        {"vocab_size": 65024, "hidden_size": 4096, "num_hidden_layers": 64, "state_size": 16,
         "tie_word_embeddings": False},
    ),
    "NX-AI/xLSTM-7b": Published("xlstm", 6_865_424_896, source=MODEL),
}

WRAPPERS: dict[str, Published] = {
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506": Published(
        "mistral3",
        24_011_361_280,
        {
            "text_config": {
                "model_type": "mistral", "vocab_size": 131072, "hidden_size": 5120, "intermediate_size": 32768,
                "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
                "tie_word_embeddings": False,
            },
            "vision_config": {
                "model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                "num_attention_heads": 16, "head_dim": 64, "patch_size": 14, "image_size": 1540,
            },
            "tie_word_embeddings": False,
        },  # as the text config says: the type's own default would tie the head
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": Published(
        "qwen2_5_vl",
        8_292_166_656,
        {
            "text_config": {
                "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                "num_attention_heads": 28, "num_key_value_heads": 4,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            },
            "vision_config": {
                "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
            },
        },
    ),
    "Qwen/Qwen3-VL-8B-Instruct": Published(
        "qwen3_vl",
        8_767_123_696,
        {
            "text_config": {
                "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
                "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
                "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
            },
            "vision_config": {
                "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096,
                "deepstack_visual_indexes": [8, 16, 24],
            },
        },
    ),
    "google/gemma-3-4b-it": Published(
        "gemma3",
        4_300_079_472,
        {
            "text_config": {
                "vocab_size": 262208, "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
                "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            },
            "vision_config": {
                "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
                "patch_size": 14, "image_size": 896, "vision_use_head": False,
            },
        },
    ),
}
"""Language models with a vision tower, of which only the text model is trained."""

ALL = {**DENSE, **EXPERTS, **HYBRIDS, **WRAPPERS}
