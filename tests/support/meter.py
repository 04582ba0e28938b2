"""Measures memory in tests: live tensors like an allocator, what autograd saves, real storages."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig, Phi3Config, PreTrainedConfig

from tests.support import tiny
from trainer.config.schema import RunConfig
from trainer.data.preparation import PreparedData
from trainer.models.discovery.discover import discover
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import Plan, make_plan
from trainer.training import adapter
from trainer.training.loading import compute_dtype, load_model
from trainer.training.trainer import Outputs, build_trainer

_SIZES: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def config(kind: str) -> PreTrainedConfig:
    """The config of a small model, but large enough that constants do not dominate."""
    if kind == "phi3":
        return Phi3Config(**_SIZES, tie_word_embeddings=False, sliding_window=None)
    if kind == "llama":
        return LlamaConfig(**_SIZES, tie_word_embeddings=True)
    if kind == "mixtral":
        return MixtralConfig(**_SIZES, num_local_experts=4, num_experts_per_tok=2, sliding_window=None)
    shape = {"n_embd": 128, "n_layer": 3, "n_head": 8, "n_positions": 512, "bos_token_id": 1, "eos_token_id": 2}
    return GPT2Config(vocab_size=1024, **shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def save_model(folder: Path, kind: str) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config(kind)).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)


class Real:
    """A run's model and trainer, built like in `loop.train`, on random tokens."""

    def __init__(self, run: RunConfig, models_dir: Path, padded: bool = True) -> None:
        self.run = run
        self.module_map: ModuleMap = discover(config(run.model.name), run.model.name)
        self.plan: Plan = make_plan(run, self.module_map)
        assert not self.plan.issues, self.plan.issues
        base = load_model(run.model, models_dir, self.plan, self.module_map, lambda *_, **__: None)
        self.model: PeftModel = adapter.attach(base, self.plan, run.adapter, self.module_map)
        folder = Path(tempfile.mkdtemp(dir=models_dir))
        rows = _rows(run, padded)
        data = PreparedData(rows, None, (), (), np.asarray(rows["length"]))
        outputs = Outputs(folder, lambda *_, **__: None)
        self.trainer: Any = build_trainer(run, self.plan.performance, self.model, tiny.tokenizer(), data, outputs)
        adapter.prepare(self.model, self.plan, compute_dtype(run.model))

    def saved(self) -> int:
        """Bytes that the layers save for the backward pass, without weights."""
        weights = set(storages([*self.model.parameters(), *self.model.buffers()]))
        seen: dict[int, Any] = {}
        inside: list[str] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights and any(part.isdigit() for part in "".join(inside[-1:]).split(".")):
                seen.setdefault(storage._cdata, storage)
            return tensor

        for name, module in self.model.named_modules():
            module.register_forward_pre_hook(lambda _module, _inputs, name=name: inside.append(name))
            module.register_forward_hook(lambda _module, _inputs, _output: (inside.pop(), None)[1])
        native = self.trainer.compute_loss

        def once(*args: Any, **kwargs: Any) -> Any:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                native(*args, **kwargs)
            raise _Done

        self.trainer.compute_loss = once
        with suppress(_Done):
            self.trainer.train()
        return sum(storage.nbytes() for storage in seen.values())

    def peak(self) -> int:
        """Peak bytes of live tensors during training, minus those that existed before."""
        meter = Meter([*self.model.parameters(), *self.model.buffers()])
        with meter:
            self.trainer.train()
        return meter.peak

    def evaluation_peak(self) -> int:
        """Peak bytes of live tensors during an evaluation of the same rows, minus those that existed before."""
        meter = Meter([*self.model.parameters(), *self.model.buffers()])
        self.model.eval()
        with meter:
            self.trainer.evaluate(self.trainer.train_dataset)
        return meter.peak


class Meter(TorchDispatchMode):
    """Counts the storages that operators allocate, like torch's allocator on a GPU."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, Any] = dict.fromkeys(storages(known))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                self._track(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return result

    def _track(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_reference: Any) -> None:
            self.live -= size
            self._seen.pop(key, None)

        self.live += size
        self._seen[key] = weakref.ref(storage, gone)


def storages(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """The distinct storages of tensors and their bytes."""
    return {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}


class _Done(Exception):
    """One forward pass is enough."""


def _rows(run: RunConfig, padded: bool) -> Dataset:
    """Rows of max_length random tokens for all steps; if padded, every second one is one token shorter."""
    training = run.training
    count = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.max_steps
    ids = torch.randint(3, 512, (count, training.max_length), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [row[: len(row) - (padded and number % 2)] for number, row in enumerate(ids)]
    sizes = [len(row) for row in rows]
    return Dataset.from_dict({"input_ids": rows, "counts": [[True] * size for size in sizes], "length": sizes})


def phi3_medium() -> PreTrainedConfig:
    """The model of the reference study."""
    return Phi3Config(
        hidden_size=5120,
        intermediate_size=17920,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=10,
        vocab_size=32064,
        max_position_embeddings=131072,
        tie_word_embeddings=False,
        sliding_window=None,
        pad_token_id=32000,
    )
