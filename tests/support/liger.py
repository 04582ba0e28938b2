"""Trains tiny models without and with Liger kernels, which Triton's interpreter runs on a CPU.

python -m tests.support.liger TYPE [TYPE ...]     prints the figures of both runs by type, as JSON
Runs in its own process: the kernels replace classes of transformers until it ends.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton.language
from liger_kernel.ops import geglu, rms_norm
from transformers import AutoModelForCausalLM
from triton.runtime import interpreter

from tests.support import tiny
from tests.support.lab import small_config
from tests.support.tiny_configs import tiny_config
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick
from trainer.models.discovery.discover import discover
from trainer.training import loop
from trainer.training.trainer import build_trainer

FIGURES = ("loss", "grad_norm", "accuracy")


def complete_the_interpreter() -> None:
    """Add what it lacks: float arguments, and two functions of the CUDA library that Liger uses."""
    convert = interpreter._implicit_cvt

    def also_floats(value: Any) -> Any:
        if not isinstance(value, float):
            return convert(value)
        kind = triton.language.float32
        return triton.language.tensor(interpreter.TensorHandle(np.array([value], np.float32), kind), kind)

    def elementwise(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        build, semantic = interpreter.interpreter_builder, interpreter.interpreter_semantic
        return lambda value: semantic.tensor(build.unary_op(value.handle, function), value.type)

    interpreter._implicit_cvt = also_floats
    rms_norm.rsqrt = elementwise(lambda value: 1 / np.sqrt(value))
    geglu.tanh = elementwise(np.tanh)


def save_model(folder: Path, kind: str) -> tuple[Tick, ...]:
    """A tiny model with random weights; returns ticks for all linears, with slices for fused ones."""
    config = tiny_config(kind)
    for key, value in {
        "vocab_size": tiny.VOCABULARY,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    kinds = [kind for kind in discover(config, kind).kinds if kind.group in ("attention", "mlp")]
    fused = {kind.slice_of for kind in kinds}
    return tuple(Tick(kind.name) for kind in kinds if "lora" in kind.treatments and kind.name not in fused)


def train(config: RunConfig, folder: Path, liger: bool) -> dict[str, Any]:
    """Figures of every step, held-out losses, trained parameters, and the kernel classes in use."""
    made: list[Any] = []

    def build(config: RunConfig, performance: Any, model: Any, *rest: Any) -> Any:
        made.append(build_trainer(config, replace(performance, use_liger_kernel=liger), model, *rest))
        return made[0]

    events: list[dict[str, Any]] = []
    run = folder / f"run-{config.model.name}-{liger}"
    run.mkdir()
    paths = loop.RunPaths(run, folder / "models", folder / "data")
    with mock.patch.object(loop, "build_trainer", build):
        loop.train(config, paths, lambda type, **values: events.append({"type": type, **values}), lambda: False)
    model = made[0].model
    return {
        "steps": [[event[key] for key in FIGURES] for event in events if event["type"] == "metrics"],
        "held out": [event["eval_loss"] for event in events if event["type"] == "eval"],
        "trained": [name for name, weight in model.named_parameters() if weight.requires_grad],
        "kernels": sorted({module.forward.__qualname__.partition(".")[0] for module in model.modules()}),
    }


def both_ways(kind: str, folder: Path) -> dict[str, Any]:
    """A few steps of one model, without and with the kernels."""
    ticks = save_model(folder / "models" / kind, kind)
    config = small_config(folder / "data", folder / "rows.jsonl", steps=3)
    config = replace(
        config,
        model=ModelConfig(name=kind, quantization="nf4", dtype="float32"),
        modules=ticks,
        adapter=AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.0),
        data=replace(config.data, eval_fraction=0.03),
        training=replace(config.training, per_device_train_batch_size=1, max_length=32),
    )
    return {way: train(config, folder, liger=way == "liger") for way in ("plain", "liger")}


if __name__ == "__main__":
    complete_the_interpreter()
    with tempfile.TemporaryDirectory() as place:
        os.environ["LAB_DEVICE_LOCKS"] = place
        print("\n" + json.dumps({kind: both_ways(kind, Path(place)) for kind in sys.argv[1:]}))
