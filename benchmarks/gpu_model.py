"""Model and data of benchmarks/gpu.py: random weights, quantized once and saved, and random tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.memory_gpu import SHAPES, tokenizer

SIZES = SHAPES | {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 8}
}
LINEARS = {
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
VOCABULARY = 32064
Task = dict[str, Any]


def save_quantized(path: Path, layout: str, size: str) -> None:
    """Save a 4-bit model with random weights, quantized module by module, in transformers' format."""
    import bitsandbytes as bnb
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, Phi3Config

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape: Task = SIZES[size] | {"num_key_value_heads": SIZES[size]["num_attention_heads"] // 4}
    shape |= {"vocab_size": VOCABULARY, "max_position_embeddings": 8192, "pad_token_id": 0}
    shape |= {"tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2}
    config = Phi3Config(**shape, sliding_window=None) if layout == "phi3" else LlamaConfig(**shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    torch.manual_seed(0)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            weight = torch.randn(module.out_features, module.in_features, device=device, dtype=torch.bfloat16) * 0.02
            made = bnb.nn.Linear4bit(
                1, 1, bias=False, compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4"
            )
            made.in_features, made.out_features = module.in_features, module.out_features
            made.weight = bnb.nn.Params4bit(
                weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=made
            ).to(device)
            model.set_submodule(name, made)
    for name, weight in list(model.named_parameters()):
        if weight.is_meta:
            values = torch.ones if "norm" in name else lambda *s, **k: torch.randn(*s, **k) * 0.02
            made = values(weight.shape, device=device, dtype=torch.bfloat16)
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, nn.Parameter(made, requires_grad=False))
    model.config.quantization_config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=["lm_head"],
    )  # fmt: skip
    model.save_pretrained(path)
    tokenizer().save_pretrained(path)


def rows(task: Task, steps: int, ragged: bool) -> list[list[int]]:
    """Random tokens for `steps` steps, in full rows or of ragged lengths; the same in every process."""
    import numpy as np

    rng = np.random.default_rng(0)
    count = task["micro"] * task["accumulation"] * steps
    lengths = np.clip(rng.lognormal(4.6, 0.8, count) * task["length"] / 512, 8, task["length"]).astype(int)
    sizes = lengths if ragged else np.full(count, task["length"])
    return [rng.integers(3, VOCABULARY - 1, size).tolist() for size in sizes]
