"""Adds special tokens to a tokenizer, and adapts the module map to the larger vocabulary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trainer.models.module_map import ModuleKind, ModuleMap


def add_tokens(tokenizer: Any, tokens: tuple[str, ...]) -> list[int]:
    """Add special tokens to a tokenizer; returns their ids."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)}, replace_extra_special_tokens=False)
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in tokens]


def with_vocabulary_size(module_map: ModuleMap, size: int) -> ModuleMap:
    """The module map with a vocabulary of `size` tokens; unchanged if the embedding already has that many rows."""
    if size <= module_map.vocab_size:
        return module_map
    kinds = tuple(_resize_kind(kind, module_map.vocab_size, size) for kind in module_map.kinds)
    more = sum(new.parameters - old.parameters for new, old in zip(kinds, module_map.kinds, strict=True))
    return replace(module_map, kinds=kinds, vocab_size=size, parameters=module_map.parameters + more, index={})


def vocabulary_kinds(module_map: ModuleMap) -> list[ModuleKind]:
    """The kinds with one row per token: the embedding, and the head unless its weight is tied."""
    return [kind for kind in module_map.group("embedding") if _has_rows(kind, module_map.vocab_size)]


def _resize_kind(kind: ModuleKind, old: int, new: int) -> ModuleKind:
    if kind.group != "embedding" or not _has_rows(kind, old):
        return kind
    width = kind.shape[1]
    more = 0 if kind.tied_to else (new - old) * (width + kind.bias)
    return replace(kind, shapes=((new, width),), parameters=kind.parameters + more)


def _has_rows(kind: ModuleKind, size: int) -> bool:
    return len(kind.modules) == 1 and len(kind.shape) == 2 and kind.shape[0] == size
