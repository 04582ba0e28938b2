"""Quantizes linears while their weights arrive: to FP8, or with bitsandbytes from other quantized formats.

transformers supports one quantizer per load, which a checkpoint that is dequantized while it loads (FP8, MXFP4 …)
already uses, and has none for FP8 linears that pass gradients on. Such weights are therefore quantized here, one by
one, so that no device ever holds the whole model in 16 bits.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from typing import Any

import bitsandbytes
import torch
from torch import nn
from transformers import BitsAndBytesConfig, core_model_loading
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AutoHfQuantizer

from trainer.models.checkpoint_format import CheckpointFormat
from trainer.models.quantized_modules import quantization_config
from trainer.training.quantization.experts import quantize_experts
from trainer.training.quantization.fp8_linear import Fp8Linear


def dequantizing_keywords(config: Any, found: CheckpointFormat) -> dict[str, Any]:
    """Set `config` so that transformers dequantizes the checkpoint; returns more keywords for `from_pretrained`."""
    value = {key: item for key, item in quantization_config(config).items() if key != "run_compressed"}
    keywords: dict[str, Any] = {}
    if found.method == "fbgemm_fp8":  # one scale for each row: a special case of the block-wise format
        value = {"quant_method": "fp8", "weight_block_size": None}
        keywords["key_mapping"] = {r"\.weight_scale$": ".weight_scale_inv"}
    holder = config if getattr(config, "quantization_config", None) else config.get_text_config(decoder=True)
    holder.quantization_config = {**value, "dequantize": True}
    return keywords


@contextlib.contextmanager
def quantized_on_arrival(
    names: Collection[str], experts: Collection[str], settings: BitsAndBytesConfig | None
) -> Iterator[None]:
    """Within, `from_pretrained` quantizes the linears `names` and parameters `experts` as soon as they arrive.

    `settings`: None for FP8.
    """
    original = core_model_loading.set_param_for_module
    wanted = {f"{name}.weight": name for name in names}

    def place(model: Any, target_name: str, *arguments: Any, **keywords: Any) -> Any:
        result = original(model, target_name, *arguments, **keywords)
        if target_name in wanted and _is_plain(model.get_submodule(wanted[target_name])):
            _replace(model, wanted[target_name], settings)
        elif target_name in experts:
            quantize_experts(model, [target_name])
        return result

    core_model_loading.set_param_for_module = place
    before = os.environ.get("HF_DEACTIVATE_ASYNC_LOAD")
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # else threads fill the device faster than this empties it
    try:
        yield
    finally:
        core_model_loading.set_param_for_module = original
        if before is None:
            del os.environ["HF_DEACTIVATE_ASYNC_LOAD"]
        else:
            os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = before


def quantize_rest(model: Any, names: Collection[str], settings: BitsAndBytesConfig | None) -> None:
    """Quantize the rest of `names`, and mark `model` as bitsandbytes' the way transformers does."""
    for name in names:
        if _is_plain(model.get_submodule(name)):
            _replace(model, name, settings)
    if settings is not None:
        model.is_quantized = True
        model.quantization_method = settings.quant_method
        model.config.quantization_config = settings
        model.hf_quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=False)
        setattr(model, "is_loaded_in_4bit" if settings.load_in_4bit else "is_loaded_in_8bit", True)
    if torch.cuda.is_available():  # transformers had reserved memory for the whole model in 16 bits
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _is_plain(module: nn.Module) -> bool:
    """Whether it is an unquantized linear."""
    linear = type(module) is nn.Linear or isinstance(module, Conv1D)
    return linear and module.weight.dtype in (torch.float32, torch.bfloat16, torch.float16)


def _replace(model: Any, name: str, settings: BitsAndBytesConfig | None) -> None:
    """Replace the linear with a quantized one, which replaces its weight in memory."""
    linear = model.get_submodule(name)
    weight = linear.weight.data.T if isinstance(linear, Conv1D) else linear.weight.data
    made: Any = Fp8Linear(weight, linear.bias) if settings is None else _bitsandbytes(linear, weight, settings)
    made.source_cls = type(linear)
    made.requires_grad_(False)
    made.weight._is_hf_initialized = made._is_hf_initialized = True
    made.train(linear.training)
    model.set_submodule(name, made)


def _bitsandbytes(linear: Any, weight: torch.Tensor, settings: BitsAndBytesConfig) -> Any:
    """Bitsandbytes' linear for `weight` (out, in), as transformers' replace_with_bnb_linear makes it."""
    out, width = weight.shape
    with torch.device("meta"):
        if settings.load_in_4bit:
            made = bitsandbytes.nn.Linear4bit(
                width,
                out,
                linear.bias is not None,
                settings.bnb_4bit_compute_dtype,
                compress_statistics=settings.bnb_4bit_use_double_quant,
                quant_type=settings.bnb_4bit_quant_type,
                quant_storage=settings.bnb_4bit_quant_storage,
            )
        else:
            made = bitsandbytes.nn.Linear8bitLt(
                width, out, linear.bias is not None, has_fp16_weights=False, threshold=settings.llm_int8_threshold
            )
    values = {**made.weight.__dict__, "requires_grad": False}
    if settings.load_in_4bit:
        made.weight = bitsandbytes.nn.Params4bit(weight, **values).to(weight.device)
    else:
        values.pop("SCB", None)
        made.weight = bitsandbytes.nn.Int8Params(weight.to("cpu"), **values).to(weight.device)
    made.bias = linear.bias
    return made
