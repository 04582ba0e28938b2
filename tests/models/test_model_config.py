"""config.json files as they are published: accepted with their exact size, or refused with what to do instead."""

from __future__ import annotations

import importlib.util
import json
import resource
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from trainer.common.errors import UserError
from trainer.config.schema import ModelConfig
from trainer.models.discovery.discover import discover
from trainer.models.locations import load_config
from trainer.models.model_config import NATIVE_SIBLINGS, missing_package
from trainer.models.module_map import ModuleMap

FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}


def code(name: str, model: str) -> dict[str, str]:
    """The auto_map of a repository that still brings the code it was first published with."""
    return {"AutoConfig": f"configuration_{name}.{model}Config", "AutoModelForCausalLM": f"modeling_{name}.{model}"}


def longrope(kind: str, count: int) -> dict[str, Any]:
    return {"type": kind, "long_factor": [1.5] * count, "short_factor": [1.0] * count}


PHI3 = {"model_type": "phi3", "auto_map": code("phi3", "Phi3"), "attention_bias": False, "vocab_size": 32064}
PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "Phi-3-medium-128k-instruct": (
        13_960_238_080,
        {
            **PHI3,
            "hidden_size": 5120,
            "intermediate_size": 17920,
            "max_position_embeddings": 131072,
            "num_attention_heads": 40,
            "num_hidden_layers": 40,
            "num_key_value_heads": 10,
            "original_max_position_embeddings": 4096,
            "rope_scaling": longrope("longrope", 64),
            "rope_theta": 10000.0,
            "sliding_window": 131072,
            "torch_dtype": "bfloat16",
        },
    ),
    "Phi-3-mini-128k-instruct, first revision": (
        3_821_079_552,
        {
            **PHI3,
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_scaling": longrope("su", 48),
            "rope_theta": 10000.0,
        },
    ),
    "falcon-7b": (
        6_921_720_704,
        {"model_type": "falcon", "alibi": False, "auto_map": code("falcon", "Falcon"), "parallel_attn": True},
    ),
    "c4ai-command-r7b": (
        8_028_033_024,
        {
            "model_type": "cohere2",
            "cache_implementation": "hybrid",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rope_theta": 50000,
            "rotary_pct": 1.0,
            "sliding_window_pattern": 4,
        },
    ),
    "DeepSeek-V3": (
        671_026_404_352,
        {
            "model_type": "deepseek_v3",
            "auto_map": code("deepseek", "DeepseekV3"),
            "ep_size": 1,
            "moe_layer_freq": 1,
            "num_nextn_predict_layers": 1,
            "quantization_config": FP8,
            "rope_scaling": {
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 40,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 4096,
                "type": "yarn",
            },
            "rope_theta": 10000,
            "topk_method": "noaux_tc",
        },
    ),
    "Qwen3-30B-A3B-FP8": (
        30_532_122_624,
        {
            "model_type": "qwen3_moe",
            "head_dim": 128,
            "max_window_layers": 48,
            "num_experts": 128,
            "num_hidden_layers": 48,
            "quantization_config": FP8,
            "rope_scaling": None,
            "rope_theta": 1000000.0,
            "sliding_window": None,
        },
    ),
    "a fine-tune of Qwen2.5-7B": (
        7_615_616_512,
        {
            "model_type": "qwen2",
            "_attn_implementation_autoset": True,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
    ),
    "dbrx-base": (
        131_596_523_520,
        {
            "model_type": "dbrx",
            "auto_map": code("dbrx", "Dbrx"),
            "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "model_type": "", "rope_theta": 500000},
            "d_model": 6144,
            "ffn_config": {"ffn_hidden_size": 10752, "model_type": "", "moe_num_experts": 16, "moe_top_k": 4},
            "n_heads": 48,
            "n_layers": 40,
            "max_seq_len": 32768,
            "vocab_size": 100352,
            "tie_word_embeddings": False,
        },
    ),
    "Mistral-Small-3.2-24B-Instruct": (
        24_011_361_280,
        {
            "model_type": "mistral3",
            "text_config": {
                "model_type": "mistral",
                "head_dim": 128,
                "hidden_size": 5120,
                "intermediate_size": 32768,
                "num_attention_heads": 32,
                "num_hidden_layers": 40,
                "num_key_value_heads": 8,
                "rope_theta": 1000000000.0,
                "tie_word_embeddings": False,
                "vocab_size": 131072,
            },
            "vision_config": {
                "model_type": "pixtral",
                "head_dim": 64,
                "hidden_size": 1024,
                "image_size": 1540,
                "intermediate_size": 4096,
                "num_attention_heads": 16,
                "num_hidden_layers": 24,
                "patch_size": 14,
                "rope_theta": 10000.0,
            },
        },
    ),
    "Qwen2.5-VL-7B-Instruct": (
        8_292_166_656,
        {
            "model_type": "qwen2_5_vl",
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": False,
            "vision_config": {
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "in_chans": 3,
                "out_hidden_size": 3584,
                "patch_size": 14,
                "spatial_patch_size": 14,
                "fullatt_block_indexes": [7, 15, 23, 31],
            },
            "vocab_size": 152064,
        },
    ),
}
"""Parameters, and what the config.json says: the odd keys that published ones carry, little of what is a default."""

REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"], "auto_map": code("deepseek", "X")},
        r"needs custom code, .*DeepSeek-V3",
    ),
    ({"model_type": "qwen", "auto_map": code("qwen", "QWen")}, r"needs custom code, .*Qwen/Qwen1\.5-7B-Chat"),
    ({"model_type": "chatglm", "auto_map": code("chatglm", "X")}, r"needs custom code, .*-hf variant"),
    (
        {"model_type": "my_llama", "architectures": ["LlamaForCausalLM"], "auto_map": code("x", "X")},
        r"needs custom code, .*native as the type llama:",
    ),
    ({"model_type": "xverse", "auto_map": code("xverse", "Xverse")}, "Choose a model of a type that transformers"),
    ({"model_type": "a_type_of_next_year"}, r"which transformers \d+\.\d+\.\d+ does not know"),
    ({"model_type": "clip"}, "not know as a causal LM"),
    ({"d_model": 768, "n_layer": 24, "ssm_cfg": {}}, "names no model_type"),
    *(
        ({"model_type": kind, "is_encoder_decoder": True, "architectures": [saved]}, "is an encoder-decoder model")
        for kind, saved in (
            ("whisper", "WhisperForConditionalGeneration"),
            ("mbart", "MBartForConditionalGeneration"),
            ("bart", "BartModel"),
            ("marian", "MarianMTModel"),
        )
    ),
    ({"model_type": "llama", "quantization_config": "fp8"}, "is wrong: “quantization_config” is not an object"),
    ({"model_type": "llama", "quantization_config": ["fp8"]}, "is wrong: “quantization_config” is not an object"),
    (
        {"model_type": "llama", "quantization_config": {"quant_method": ["fp8"]}},
        r"is wrong: “quantization_config\.quant_method” is not text",
    ),
    ({"model_type": "llama", "hidden_size": "wide"}, "is wrong: .*hidden_size.*expected int"),
    ({"model_type": "llama", "num_hidden_layers": None}, "is wrong: .*num_hidden_layers"),
    (
        {"model_type": "qwen3", "num_hidden_layers": 4, "layer_types": ["full_attention"] * 3},
        r"is wrong: .*num_hidden_layers.*\(4\).*layer_types.*\(3\)",
    ),
]


def read(value: dict[str, Any], folder: Path) -> ModuleMap:
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text(json.dumps(value))
    return discover(load_config(ModelConfig(name="model"), folder), "model")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_accepted_with_their_size(name: str, tmp_path: Path) -> None:
    parameters, value = PUBLISHED[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    module_map = read(value, tmp_path)
    assert module_map.parameters == parameters
    assert any("lora" in kind.treatments for kind in module_map.group("attention"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3_000_000, "in kB: no weight becomes real"


@pytest.mark.parametrize(("value", "reason"), REFUSED)
def test_what_is_refused_says_why_and_what_to_do(value: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        read(value, tmp_path)
    assert caught.value.fix
    assert "\n" not in str(caught.value) and ".." not in str(caught.value)


def test_the_decoder_of_an_encoder_decoder_is_a_causal_lm(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
    assert read({"model_type": "bart", "architectures": ["BartForCausalLM"], **sizes}, tmp_path).layers


def test_no_native_type_is_sent_elsewhere() -> None:
    assert not NATIVE_SIBLINGS.keys() & set(CONFIG_MAPPING)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ImportError("X requires the timm library. You can install it with pip: `pip install timm`. Please"), "timm"),
        (ImportError('Using this needs the newest: `pip install -U "bitsandbytes>=0.46.1"`'), "bitsandbytes"),
        (ModuleNotFoundError("No module named 'PIL.Image'", name="PIL.Image"), "pillow"),
        (ModuleNotFoundError("No module named 'scipy'", name="scipy"), "scipy"),
    ],
)
def test_packages_are_named_as_pip_knows_them(error: ImportError, told: str) -> None:
    assert f"pip install {told}." in str(missing_package(error, "m"))


def test_a_package_that_pip_cannot_find_by_name_is_not_made_up() -> None:
    error = ImportError("This needs x: pip install git+https://github.com/someone/x")
    assert str(error) in str(missing_package(error, "m"))


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pip install timm"):
        read({"model_type": "gemma3n"}, tmp_path)
