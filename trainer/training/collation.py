"""Collates the examples of an optimizer step into micro-batches, padded or packed, and groups examples by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from trainer.data.packing import Layout, MicroBatch
from trainer.planning.attention import SDPA
from trainer.training.attention import packed

IGNORED = -100
"""Label of tokens without loss (PyTorch's `ignore_index`)."""
Tensors = dict[str, torch.Tensor]


@dataclass
class Collator:
    """A step's micro-batches, each of (rows, tokens): input_ids, labels, and attention_mask or, packed, position_ids.

    Packed rows have no attention mask: restarting position ids tell transformers where an example ends, so that no
    example attends to another. Nothing predicts the first token of an example. Padding is masked, so it uses token 0:
    many tokenizers lack a padding token, or have one outside the model's vocabulary.

    Returns {"micro_batches", "parts", "lengths", "counted", "tokens"}: for each micro-batch its tensors, the places
    of its examples and the number of tokens that count for the loss; the examples' lengths; and their sum.
    """

    layout: Layout
    attention: str = SDPA

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        most = self.layout.max_length
        ids = [np.asarray(example["input_ids"][:most]) for example in examples]
        labels = [
            _labels(tokens, np.asarray(example["counts"][:most]))
            for tokens, example in zip(ids, examples, strict=True)
        ]
        lengths = [len(tokens) for tokens in ids]
        parts = self.layout.micro_batches(lengths)
        made = [self._tensors(part, ids, labels) for part in parts]
        return {
            "micro_batches": made,
            "parts": parts,
            "lengths": lengths,
            "counted": [int((tensors["labels"] != IGNORED).sum()) for tensors in made],
            "tokens": sum(lengths),
        }

    def largest(self, examples: Sequence[dict[str, Any]]) -> Tensors:
        """The largest micro-batch that the layout allows: full rows, all tokens counted, two examples in each."""
        width, rows = self.layout.width(self.layout.max_length), self.layout.rows
        tokens = np.concatenate([example["input_ids"] for example in examples])
        halves = [np.resize(tokens, size) for size in (width // 2, width - width // 2)]
        if not self.layout.packed:
            halves = [np.concatenate(halves)]
        part = [list(range(len(halves)))] * rows
        return self._tensors(part, halves, [_labels(half, np.ones(len(half), bool)) for half in halves])

    def _tensors(self, part: MicroBatch, ids: list[np.ndarray], labels: list[np.ndarray]) -> Tensors:
        width = self.layout.width(max(sum(len(ids[place]) for place in row) for row in part))
        shape = (len(part), width)
        made = {"input_ids": np.zeros(shape, np.int64), "labels": np.full(shape, IGNORED)}
        extra = "position_ids" if self.layout.packed else "attention_mask"
        made[extra] = np.zeros(shape, np.int64)
        for number, row in enumerate(part):
            start = 0
            for place in row:
                end = start + len(ids[place])
                made["input_ids"][number, start:end] = ids[place]
                made["labels"][number, start:end] = labels[place]
                made[extra][number, start:end] = np.arange(end - start) if self.layout.packed else 1
                start = end
        tensors = {name: torch.from_numpy(values) for name, values in made.items()}
        return tensors | packed(tensors["position_ids"], self.attention) if self.layout.packed else tensors


def owners(part: MicroBatch, lengths: Sequence[int], width: int) -> torch.Tensor:
    """For each position of a micro-batch, (rows, `width`), the place of its example; 0 for padding."""
    found = np.zeros((len(part), width), np.int64)
    for number, row in enumerate(part):
        start = 0
        for place in row:
            found[number, start : start + lengths[place]] = place
            start += lengths[place]
    return torch.from_numpy(found)


def _labels(ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Labels of one example; its first token has none, since nothing stands before it."""
    labels = np.where(counts, ids, IGNORED)
    labels[:1] = IGNORED
    return labels


class GroupedSampler(Sampler[int]):
    """Random order that groups examples of similar length; deterministic, so a resumed run repeats it."""

    def __init__(self, lengths: np.ndarray, batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed, self._epoch = lengths.tolist(), batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(get_length_grouped_indices(self._lengths, self._batch, generator=generator))
