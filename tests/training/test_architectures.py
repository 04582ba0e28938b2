"""Every tick tells the truth on every architecture: what its receipt names moves, and nothing else does.

All causal-LM types that transformers can build, at tiny size, with real steps. `make test` trains every
type with all its LoRA ticks at once and with all its full ticks at once; the full sweep takes each kind
and treatment alone.
"""

from __future__ import annotations

from functools import cache
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.support import exercise
from tests.support.tiny_configs import MODEL_TYPES, NOT_BUILT, tiny_config
from trainer.config.schema import AdapterConfig, Tick
from trainer.models.discovery.discover import discover
from trainer.models.module_map import ModuleKind, ModuleMap
from trainer.training import adapter

TYPES = [name for name in MODEL_TYPES if name not in NOT_BUILT]
PLAIN = AdapterConfig(r=2, lora_alpha=4, lora_dropout=0.0)

LEFT_OUT = {
    "blt": "It cuts texts into patches; these short ones have one, and attention over one key has no gradient.",
    "git": "Its loss leaves out as many tokens as an image has, so text alone has none.",
    "laguna": "A bias beside its router's weight only chooses experts; no gradient reaches it.",
    "recurrent_gemma": "It keeps its state, and the graph behind it, from one step to the next: two steps fail.",
    "roc_bert": "Text alone uses the padding row of two of its embeddings, which never trains.",
}
"""What cannot be shown by training all ticks of a small text at once, and why."""


@cache
def found(model_type: str) -> ModuleMap:
    return discover(tiny_config(model_type), model_type)


def tickable(module_map: ModuleMap, treatment: str) -> list[ModuleKind]:
    """Kinds that take the treatment and can be ticked side by side: no slices, no second tick of a tied weight."""
    return [
        kind
        for kind in module_map.kinds
        if treatment in kind.treatments and kind.slice_of is None and kind.tied_to is None
    ]


def named(trained: exercise.Trained) -> set[str]:
    """Modules that the receipts name; a tied head in full is its embedding's weight, and a bias of its own."""
    found = set()
    for receipt in trained.plan.receipts:
        kind = trained.module_map.get(receipt.tick)
        assert kind is not None
        owner = trained.module_map.get(kind.tied_to or "")
        if owner is not None and receipt.treatment == "full":
            found |= {*owner.modules, *(kind.modules if kind.parameters else ())}
        else:
            found |= set(receipt.names)
    return found


def check_file(file: Path, trained: exercise.Trained) -> None:
    """The adapter's file holds as many numbers as planned, and is as large; a router's buffers come along."""
    buffers = {name.replace(".modules_to_save.default", "") for name, _ in trained.model.named_buffers()}
    with safe_open(file, "pt") as tensors:
        sizes = {key: prod(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    assert sum(size for key, size in sizes.items() if key not in buffers) == pytest.approx(
        trained.plan.stored, rel=0.01
    )
    if not buffers & sizes.keys():
        assert file.stat().st_size == pytest.approx(trained.plan.adapter_bytes, rel=0.01, abs=16 * len(sizes))


def check(model_type: str, ticks: list[Tick], folder: Path) -> None:
    """Train the ticks for real; hold what moved, how much trains and what reloads against the plan."""
    config = tiny_config(model_type)
    trained = exercise.train(exercise.build(config, ticks, PLAIN, found(model_type)), steps=2)
    assert all(receipt.matched for receipt in trained.plan.receipts)
    assert adapter.trainable_entries(trained.model, trained.plan, PLAIN) == trained.plan.trainable
    assert trained.moved() == {name for name, weight in trained.model.named_parameters() if weight.requires_grad}
    owned = adapter.owners(trained.model, trained.plan, trained.module_map)
    assert {key[0] for key, _ in owned} == {adapter.holder(target) for target in trained.plan.targets}
    assert {target.module for target in trained.plan.targets} == named(trained)
    again = exercise.reloaded(trained, config, folder)
    check_file(folder / "adapter_model.safetensors", trained)
    torch.testing.assert_close(
        exercise.logits(again, config), exercise.logits(trained.model, config), rtol=0, atol=1e-6, equal_nan=True
    )


@pytest.mark.parametrize("treatment", ["lora", "full"])
@pytest.mark.parametrize("model_type", [name for name in TYPES if name not in LEFT_OUT])
def test_all_ticks_of_a_treatment_train_what_they_name(model_type: str, treatment: str, tmp_path: Path) -> None:
    kinds = tickable(found(model_type), treatment)
    assert kinds
    check(model_type, [Tick(kind.name, treatment) for kind in kinds], tmp_path)  # type: ignore[arg-type]


@pytest.mark.full
@pytest.mark.parametrize("model_type", [name for name in TYPES if name not in LEFT_OUT])
def test_each_tick_alone_trains_what_it_names(model_type: str, tmp_path: Path) -> None:
    for kind in found(model_type).kinds:
        for treatment in kind.treatments:
            check(model_type, [Tick(kind.name, treatment)], tmp_path / f"{kind.name}-{treatment}")  # type: ignore[arg-type]


@pytest.mark.parametrize("model_type", TYPES)
def test_slices_of_a_fused_module_train_their_rows_only(model_type: str) -> None:
    ticks = [Tick(kind.name) for kind in found(model_type).kinds if kind.slice_of]
    if not ticks:
        return
    trained = exercise.train(exercise.build(tiny_config(model_type), ticks, PLAIN, found(model_type)), steps=2)
    for target in trained.plan.targets:
        weight = trained.model.base_model.model.get_submodule(target.module).lora_B["default"].weight
        outside = torch.ones_like(weight, dtype=torch.bool)
        for part in target.slices:
            block = torch.zeros_like(outside)
            for start, end in part.rows:
                block[start:end, part.columns[0] : part.columns[1]] = True
            assert bool((weight[block] != 0).any()), part
            outside &= ~block
        assert not bool((weight[outside] != 0).any())
    assert adapter.trainable_entries(trained.model, trained.plan, PLAIN) == trained.plan.trainable
