"""Collates examples into batches, truncated and padded or packed, and groups examples by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from trainer.data import packing

IGNORED = -100
"""Label of tokens without loss (PyTorch's `ignore_index`)."""
Batch = dict[str, Any]


@dataclass
class Collator:
    """Batches of (rows, tokens): input_ids, labels, and either attention_mask or, packed, position_ids.

    Packed rows have no attention mask: restarting position ids tell transformers where an example ends, so that no
    example attends to another. `tokens` counts the positions without padding; the trainer removes it. Padding is
    masked, so it uses token 0: many tokenizers have no padding token, or one outside the model's vocabulary.
    """

    max_length: int
    packed: bool = False

    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        ids = [np.asarray(example["input_ids"][: self.max_length]) for example in examples]
        counts = [np.asarray(example["counts"][: self.max_length]) for example in examples]
        sizes = [len(item) for item in ids]
        rows = packing.rows(sizes, self.max_length) if self.packed else [[place] for place in range(len(ids))]
        width = max(sum(sizes[place] for place in row) for row in rows)
        shape = (len(rows), width)
        input_ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED)
        positions, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for number, row in enumerate(rows):
            start = 0
            for place in row:
                end = start + sizes[place]
                input_ids[number, start:end] = ids[place]
                labels[number, start:end] = np.where(counts[place], ids[place], IGNORED)
                positions[number, start:end] = np.arange(sizes[place])
                mask[number, start:end] = 1
                start = end
        made = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
        made |= (
            {"position_ids": torch.from_numpy(positions)}
            if self.packed
            else {"attention_mask": torch.from_numpy(mask)}
        )
        return {**made, "tokens": sum(sizes)}


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
