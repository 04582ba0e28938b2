"""Hooks into transformers' NF4 loading to quantize expert parameters as they arrive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

from trainer.training.quantization.experts import replace_parameter


@contextmanager
def quantizing_experts(names: Iterable[str]) -> Iterator[None]:
    """Within the context, transformers loads checkpoints in NF4 and quantizes the parameters `names` as they arrive.

    It reads one parameter at a time, so the device never holds more than one in 16 bits, plus its parts in the
    checkpoint.
    """
    # transformers' quantizer takes linears only, and no argument of `from_pretrained` names another one
    own = AUTO_QUANTIZER_MAPPING["bitsandbytes_4bit"]
    AUTO_QUANTIZER_MAPPING["bitsandbytes_4bit"] = partial(_Quantizer, frozenset(names))
    try:
        yield
    finally:
        AUTO_QUANTIZER_MAPPING["bitsandbytes_4bit"] = own


class _Quantizer(Bnb4BitHfQuantizer):  # type: ignore[misc]
    """Quantizes linears like bitsandbytes, and experts in addition."""

    def __init__(self, names: frozenset[str], *values: Any, **keywords: Any) -> None:
        super().__init__(*values, **keywords)
        self.expert_names = names

    def param_needs_quantization(self, model: nn.Module, param_name: str, **keywords: Any) -> bool:
        return param_name in self.expert_names or super().param_needs_quantization(model, param_name, **keywords)

    def get_quantize_ops(self) -> ConversionOps:
        return _QuantizeOnLoad(self.expert_names, super().get_quantize_ops())


class _QuantizeOnLoad(ConversionOps):  # type: ignore[misc]
    def __init__(self, names: frozenset[str], linears: ConversionOps) -> None:
        self.names, self.linears = names, linears

    def convert(self, input_dict: dict[str, Any], model: nn.Module, **keywords: Any) -> dict[str, Any]:
        """Quantize experts into the model, and pass the linears on to transformers."""
        for name in self.names & input_dict.keys():
            value = input_dict.pop(name)
            replace_parameter(model, name, value[0] if isinstance(value, list) else value)
            (keywords.get("missing_keys") or set()).discard(name)
        return self.linears.convert(input_dict, model=model, **keywords)  # type: ignore[no-any-return]
