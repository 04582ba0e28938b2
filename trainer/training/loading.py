"""Loads the base model: dtype, device, quantization."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
from safetensors import SafetensorError
from transformers import BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from trainer.common import heartbeat
from trainer.common.errors import UserError, first_line
from trainer.config.schema import ModelConfig
from trainer.models.added_tokens import with_vocabulary_size
from trainer.models.checkpoint_format import CheckpointFormat
from trainer.models.locations import check_weights, load_config, locate
from trainer.models.model_config import auto_class, missing_package
from trainer.models.module_map import ModuleMap
from trainer.planning.memory.weights import experts_to_quantize, modules_to_quantize, skipped_modules
from trainer.planning.plan import Plan
from trainer.training.callbacks import Sink
from trainer.training.gpu import auto_dtype
from trainer.training.quantization.base import dequantizing_keywords, quantize_rest, quantized_on_arrival
from trainer.training.quantization.expert_loading import quantizing_experts
from trainer.training.quantization.experts import quantize_experts


def compute_dtype(model: ModelConfig) -> torch.dtype:
    """The compute dtype as configured, on the device that torch uses."""
    name = auto_dtype() if model.dtype == "auto" else model.dtype
    return getattr(torch, name)  # type: ignore[no-any-return]


def load_model(model: ModelConfig, models_dir: Path, plan: Plan, module_map: ModuleMap, sink: Sink) -> Any:
    """The base model, quantized if configured, with SDPA attention. Raises UserError if it cannot be loaded."""
    config = load_config(model, models_dir)
    check_weights(model, models_dir)
    # it logs a cast to float16 at every call
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    checkpoint, method = module_map.checkpoint, _LoadingMethod.of(model, plan, module_map)
    if checkpoint is not None:
        sink("log", text=checkpoint.describe(model.quantization))
    loaded, found = _read(model, models_dir, config, method)
    _check_complete(loaded, found, model.name, sink)
    method.finish(loaded)
    if checkpoint is not None and checkpoint.method not in ("gptq", "awq"):  # their kernels choose their own type
        _set_compute_dtype(loaded, compute_dtype(model))
    _prevent_repacking(loaded)
    loaded.config.use_cache = False
    return loaded


def resize_vocabulary(model: Any, size: int, module_map: ModuleMap) -> ModuleMap:
    """Give `model` rows for a tokenizer of `size` tokens, if that has more; returns the map of the model then."""
    if size <= module_map.vocab_size:
        return module_map
    model.resize_token_embeddings(size, mean_resizing=True)
    return with_vocabulary_size(module_map, size)


@dataclass(frozen=True)
class _LoadingMethod:
    """How weights are loaded: as they are, or quantized on the way."""

    checkpoint: CheckpointFormat | None
    settings: BitsAndBytesConfig | None
    """None: `linears`, if any, are quantized to FP8."""
    linears: set[str]
    experts: set[str]

    @classmethod
    def of(cls, model: ModelConfig, plan: Plan, module_map: ModuleMap) -> _LoadingMethod:
        checkpoint = module_map.checkpoint
        if model.quantization == "none" or (checkpoint is not None and checkpoint.used_as_is):
            return cls(checkpoint, None, set(), set())
        experts = experts_to_quantize(model.quantization, module_map)
        linears = modules_to_quantize(model.quantization, module_map, plan.targets) - experts
        settings = None if model.quantization == "fp8" else _bitsandbytes_config(model, plan, module_map)
        return cls(checkpoint, settings, linears, experts)

    @property
    def dequantizes(self) -> bool:
        return self.checkpoint is not None and not self.checkpoint.used_as_is

    @property
    def quantizes_here(self) -> bool:
        """Whether the weights are quantized by `quantization`, not by transformers."""
        return bool(self.linears) if self.settings is None else self.dequantizes

    def keywords(self, config: Any) -> dict[str, Any]:
        """Keywords for `from_pretrained`; may modify `config`."""
        if self.checkpoint is not None and self.dequantizes:
            return dequantizing_keywords(config, self.checkpoint)
        return {} if self.settings is None else {"quantization_config": self.settings}

    def arriving(self) -> contextlib.AbstractContextManager[None]:
        """Around `from_pretrained`: quantizes what transformers does not."""
        if self.quantizes_here:
            return quantized_on_arrival(self.linears, self.experts, self.settings)
        return quantizing_experts(self.experts) if self.experts else contextlib.nullcontext()

    def finish(self, loaded: Any) -> None:
        """Quantize what is left."""
        if self.quantizes_here:
            quantize_rest(loaded, self.linears, self.settings)
        quantize_experts(loaded, self.experts)  # only those that transformers did not pass through the hook


def _read(model: ModelConfig, models_dir: Path, config: Any, method: _LoadingMethod) -> tuple[Any, dict[str, Any]]:
    """The model, and `from_pretrained`'s report of missing and unexpected weights. Raises UserError."""
    source, keywords = locate(model, models_dir)
    keywords |= method.keywords(config)
    if torch.cuda.is_available():
        keywords["device_map"] = {"": 0}
    try:
        with method.arriving(), _reported():
            return auto_class(config).from_pretrained(  # type: ignore[no-any-return]
                source,
                config=config,
                dtype=compute_dtype(model),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **keywords,
            )
    except torch.OutOfMemoryError:
        raise
    except ImportError as error:
        raise missing_package(error, model.name) from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UserError(
            f"The weights of {model.name} cannot be loaded: {first_line(error)}",
            "It needs complete weights as safetensors.",
        ) from error


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Within the context, the heartbeat says how many of the weights transformers has loaded."""

    def follow(factory: Callable[..., Any], values: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        return _counted(values[0]) if values and isinstance(values[0], Collection) else factory(*values, **keywords)

    before = transformers_logging.set_tqdm_hook(follow)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(before)


def _counted(weights: Collection[Any]) -> Iterator[Any]:
    for number, weight in enumerate(weights):
        heartbeat.progress(number, len(weights))
        yield weight


def _check_complete(loaded: Any, found: dict[str, Any], name: str, sink: Sink) -> None:
    """Raise UserError if weights are missing; log unexpected ones."""
    missing = sorted(found["missing_keys"] & dict(loaded.named_parameters()).keys())
    if missing:
        raise UserError(
            f"The weights of {name} lack {_first_few(missing)}, which would be initialized randomly.",
            "Copy the model again, or correct its config.json.",
        )
    if unused := sorted(found["unexpected_keys"]):
        sink("log", text=f"Ignoring weights that the model does not use: {_first_few(unused)}")


def _bitsandbytes_config(model: ModelConfig, plan: Plan, module_map: ModuleMap) -> BitsAndBytesConfig:
    """NF4 with double quantization, or LLM.int8(). Fully trained modules and the head stay unquantized."""
    return BitsAndBytesConfig(
        load_in_4bit=model.quantization == "nf4",
        load_in_8bit=model.quantization == "int8",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(model),
        bnb_4bit_quant_storage=torch.uint8,
        # replaces the default list, which contains the head
        llm_int8_skip_modules=skipped_modules(module_map, plan.targets),
    )


def _set_compute_dtype(model: Any, dtype: torch.dtype) -> None:
    """Set the compute dtype of a model from a quantized checkpoint.

    transformers leaves the unquantized weights of such a checkpoint in the dtype in which they were saved.
    """
    # transformers has no public name for what must stay in float32
    wide = {*(model._keep_in_fp32_modules or ()), *(getattr(model, "_keep_in_fp32_modules_strict", None) or ())}
    packed = (bitsandbytes.nn.Params4bit, bitsandbytes.nn.Int8Params)
    for name, parameter in model.named_parameters():
        plain = parameter.is_floating_point() and not isinstance(parameter, packed)
        if plain and not any(part in name for part in wide):
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.compute_dtype = dtype


def _first_few(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _prevent_repacking(model: Any) -> None:
    """On CPUs with AVX512-BF16, an eval pass would repack 4-bit weights, making later gradients wrong."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
