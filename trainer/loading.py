"""Weights into memory: dtype, device, quantization."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from trainer.config import ModelConfig
from trainer.errors import UserError
from trainer.expert_loading import quantizing_experts
from trainer.expert_quantization import quantize_experts
from trainer.models import check_weights, first_line, load_config, locate
from trainer.modules import ModuleMap
from trainer.plan import Plan
from trainer.recorder import Sink
from trainer.weights import quantised_experts, skipped_modules


def compute_dtype(model: ModelConfig) -> torch.dtype:
    """The dtype of activations: as asked for; auto is bfloat16 on a GPU that has it, else float32."""
    if model.dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return getattr(torch, model.dtype)  # type: ignore[no-any-return]


def load_model(model: ModelConfig, models_dir: Path, plan: Plan, module_map: ModuleMap, sink: Sink) -> Any:
    """The base model, quantised if asked for, with SDPA attention. Raises UserError where it cannot load whole."""
    config = load_config(model, models_dir)
    check_weights(model, models_dir)
    source, keywords = locate(model, models_dir)
    dtype = compute_dtype(model)
    if model.quantization != "none":
        # it tells of a cast to float16 at every call
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        keywords["quantization_config"] = _quantisation(model, plan, module_map)
    if torch.cuda.is_available():
        keywords["device_map"] = {"": 0}
    experts = quantised_experts(model.quantization, module_map)
    try:
        with quantizing_experts(experts):
            loaded, found = AutoModelForCausalLM.from_pretrained(
                source,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **keywords,
            )
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UserError(
            f"The weights of {model.name} cannot be loaded: {first_line(error)}",
            "It needs its weights, whole, as safetensors.",
        ) from error
    missing = sorted(found["missing_keys"] & dict(loaded.named_parameters()).keys())
    if missing:
        raise UserError(
            f"The weights of {model.name} lack {_some(missing)}: numbers made up at random would stand there.",
            "Copy the model anew, or mend its config.json.",
        )
    if unused := sorted(found["unexpected_keys"]):
        sink("log", text=f"Weights that the model has no place for are left out: {_some(unused)}")
    quantize_experts(loaded, experts)  # all are by now, but where transformers does not hand them over
    _keep_weights_in_place(loaded)
    loaded.config.use_cache = False
    return loaded


def _quantisation(model: ModelConfig, plan: Plan, module_map: ModuleMap) -> BitsAndBytesConfig:
    """NF4 with double quantisation, or LLM.int8(). What trains in full, and the head, stays as it is."""
    return BitsAndBytesConfig(
        load_in_4bit=model.quantization == "nf4",
        load_in_8bit=model.quantization == "int8",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(model),
        bnb_4bit_quant_storage=torch.uint8,
        # a list of one's own replaces the default, which holds the head
        llm_int8_skip_modules=skipped_modules(module_map, plan.targets),
    )


def _some(names: list[str]) -> str:
    """The first names, and how many there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _keep_weights_in_place(model: Any) -> None:
    """On CPUs with AVX512-BF16 an eval pass would repack 4-bit weights, and gradients would be wrong after it."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
