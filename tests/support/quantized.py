"""Tiny checkpoints in the quantized formats of published models, saved by bitsandbytes or written here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GptOssConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)
from transformers.integrations.mxfp4 import FP4_VALUES

from tests.support import tiny

State = dict[str, torch.Tensor]
BLOCK = 32
_SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_SIZES),
    "moe": Qwen3MoeConfig(**_SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64),
    "gpt_oss": GptOssConfig(**_SIZES, **_EXPERTS),
}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
FP4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_quant_storage": "bfloat16"}


def save_plain(folder: Path, kind: str) -> Path:
    """A model in bfloat16, from which the quantized ones are made. Its weights are large enough to matter."""
    torch.manual_seed(0)
    config = CONFIGS[kind]
    config.initializer_range = 0.1
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def save_bitsandbytes(folder: Path, plain: Path, settings: dict[str, Any]) -> Path:
    """The model quantized by bitsandbytes and saved by transformers."""
    quantization = BitsAndBytesConfig(**settings, bnb_4bit_compute_dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=quantization, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def save_as(folder: Path, plain: Path, pack: Callable[[State], State], quantization: dict[str, Any]) -> Path:
    """The model with its weights packed by `pack` and this `quantization_config`."""
    folder.mkdir()
    config = json.loads((plain / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(pack(load_file(plain / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    tiny.tokenizer().save_pretrained(folder)
    return folder


def is_linear(name: str, weight: torch.Tensor) -> bool:
    """Whether checkpoints quantize this weight: linears inside the layers, without routers."""
    return ".layers." in name and weight.ndim == 2 and not name.endswith(("mlp.gate.weight", "router.weight"))


def fp8(state: State) -> State:
    """Blocks of 32 × 32 share a scale, as in DeepSeek's and Qwen's checkpoints (there: 128 × 128)."""
    packed: State = {}
    for name, weight in state.items():
        if not is_linear(name, weight):
            packed[name] = weight
            continue
        rows, columns = weight.shape[0] // BLOCK, weight.shape[1] // BLOCK
        blocks = weight.float().reshape(rows, BLOCK, columns, BLOCK)
        scale = blocks.abs().amax((1, 3)) / 448
        packed[name] = (blocks / scale[:, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn)
        packed[f"{name}_scale_inv"] = scale
    return packed


def fp8_rows(state: State) -> State:
    """One scale per row, as in FBGEMM."""
    packed: State = {}
    for name, weight in state.items():
        packed[name] = weight
        if is_linear(name, weight):
            scale = weight.float().abs().amax(1, keepdim=True) / 448
            packed[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
            packed[f"{name}_scale"] = scale
    return packed


def mxfp4(state: State) -> State:
    """Experts in blocks of 32 that share a power of two, as in gpt-oss: two values per byte, low bits first."""
    values = torch.tensor(FP4_VALUES)
    packed: State = {}
    for name, weight in state.items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            packed[name] = weight
            continue
        turned = weight.float().transpose(1, 2)  # (experts, out, in)
        blocks = turned.reshape(*turned.shape[:2], -1, 32)
        exponent = torch.floor(torch.log2(blocks.abs().amax(-1))) - 2  # the largest value is 6, that is 1.5 × 2²
        codes = ((blocks / torch.exp2(exponent)[..., None])[..., None] - values).abs().argmin(-1).to(torch.uint8)
        packed[f"{name}_blocks"] = codes[..., 0::2] | codes[..., 1::2] << 4
        packed[f"{name}_scales"] = (exponent + 127).to(torch.uint8)
    return packed


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK]}
FBGEMM = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}


def int4(state: State) -> State:
    """Symmetric groups of 32, packed eight to an int32, as llm-compressor writes W4A16."""
    packed: State = {}
    for name, weight in state.items():
        if not is_linear(name, weight):
            packed[name] = weight
            continue
        groups = weight.float().reshape(weight.shape[0], -1, BLOCK)
        scale = groups.abs().amax(-1) / 7
        codes = (groups / scale[..., None]).round().clamp(-8, 7).reshape(*weight.shape[:1], -1, 8).to(torch.int64) + 8
        words = (codes << torch.arange(0, 32, 4)).sum(-1)
        stem = name.removesuffix("weight")
        packed[f"{stem}weight_packed"] = (words - (words >= 2**31) * 2**32).to(torch.int32)
        packed[f"{stem}weight_scale"] = scale.to(torch.bfloat16)
        packed[f"{stem}weight_shape"] = torch.tensor(weight.shape)
    return packed


def compressed(format: str, **weights: Any) -> dict[str, Any]:
    """The `quantization_config` of compressed-tensors for all linears except the head."""
    group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


W4A16 = compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=BLOCK)
W8 = compressed("float-quantized", num_bits=8, type="float", strategy="channel")
