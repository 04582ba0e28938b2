"""The energy of what each LoRA adds to its module's output, relative to that output's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from trainer.training.attribution.gates import Gate
from trainer.training.attribution.rows import Rows
from trainer.training.collation import IGNORED


class _Meter:
    """Sums of squares at one module, over the tokens that count."""

    def __init__(self, module: Any, gates: Sequence[Gate]) -> None:
        self.gates = gates
        self.added = [0.0] * len(gates)
        self.own = [0.0] * len(gates)
        self.counted: torch.Tensor | None = None
        """(rows, width) of the current micro-batch."""
        scale = module.scaling["default"]
        self.hooks = [
            module.lora_B["default"].register_forward_hook(lambda _m, _i, out: self._add(self.added, out, scale)),
            module.base_layer.register_forward_hook(lambda _m, _i, out: self._add(self.own, out, 1.0)),
        ]

    def _add(self, sums: list[float], output: torch.Tensor, scale: float) -> None:
        counted = self.counted
        if counted is None or output.shape[:-1] != counted.shape:  # an expert, which sees some of the tokens
            return
        squares = (output[counted].float() * scale).square().sum(0)
        for number, gate in enumerate(self.gates):
            rows = [squares] if gate.rows is None else [squares[start:end] for start, end in gate.rows]
            sums[number] += float(sum(part.sum() for part in rows))


def output_energy(model: PeftModel, gates: Sequence[Gate], rows: Rows) -> dict[int, float]:
    """By the gate's number: the energy of what its LoRA adds at the counted tokens, over that of its module."""
    meters: dict[str, _Meter] = {}
    numbers = {id(gate): number for number, gate in enumerate(gates)}
    for name in dict.fromkeys(gate.module for gate in gates if gate.treatment == "lora"):
        module = _plain_lora(model, name)
        if module is not None:
            meters[name] = _Meter(module, [gate for gate in gates if gate.module == name])

    def visit(tensors: dict[str, torch.Tensor]) -> None:
        labels = tensors["labels"]
        counted = torch.zeros_like(labels, dtype=torch.bool)
        counted[:, :-1] = labels[:, 1:] != IGNORED
        for meter in meters.values():
            meter.counted = counted
        rows.trainer.token_losses(model, dict(tensors))

    with torch.no_grad():
        rows.pieces(visit)
    found = {}
    for meter in meters.values():
        for hook in meter.hooks:
            hook.remove()
        for gate, added, own in zip(meter.gates, meter.added, meter.own, strict=True):
            if own:
                found[numbers[id(gate)]] = added / own
    return found


def _plain_lora(model: PeftModel, name: str) -> Any | None:
    """The LoRA of a linear, which has an output of its own; None for embeddings, expert parameters and DoRA."""
    try:
        module: Any = model.base_model.model.get_submodule(name)
    except AttributeError:  # a parameter
        return None
    plain = isinstance(module, LoraLayer) and "default" in module.lora_B and not module.lora_magnitude_vector
    return module if plain and not hasattr(module, "parameter_name") else None
