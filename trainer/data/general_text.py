"""General text, whose loss before and after training shows what a run forgets: bundled passages, or an own file.

The passages (facts, stories, letters, code) are in trainer/demo/data/general.jsonl, written for this purpose.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainer import demo
from trainer.common.errors import UserError
from trainer.config.schema import DataConfig
from trainer.data.checking import check
from trainer.data.masking.chat_templates import choose
from trainer.data.preparation import DataSplit
from trainer.data.tokenization import tokenize

MOST = 200
"""Examples of an own file, evenly spread over it: enough to tell a loss to a hundredth."""
OWN = DataConfig(source="file", eval_fraction=0.0, loss_on="all", bad_rows="skip")
"""How an own file is read: its columns are recognized, every token counts, invalid rows are left out."""


@dataclass(frozen=True)
class GeneralText:
    """What is measured: as `PreparedData` has its examples."""

    examples: Sequence[dict[str, np.ndarray]]
    """input_ids and counts of each, uncut."""
    keys: np.ndarray
    """Equal for equal examples."""


def general_text(data: DataConfig, tokenizer: Any, max_length: int, data_dir: Path) -> GeneralText:
    """The general text of a run. Raises UserError if the file is missing or none of it can be used."""
    return _own(data.general_text, tokenizer, max_length, data_dir) if data.general_text else _bundled(tokenizer)


def _bundled(tokenizer: Any) -> GeneralText:
    with demo.GENERAL_FILE.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    ids = [np.asarray(tokenizer(text)["input_ids"], dtype=np.int64) for text in texts]
    examples = [{"input_ids": tokens, "counts": np.ones(len(tokens), dtype=bool)} for tokens in ids]
    return GeneralText(examples, np.arange(len(texts), dtype=np.uint64))


def _own(path: str, tokenizer: Any, max_length: int, data_dir: Path) -> GeneralText:
    data = replace(OWN, path=path)
    checked = check(data, data_dir)
    template = choose(data, tokenizer, checked.account["shapes"])
    tokens = tokenize(checked, data, template.tokenizer, data_dir, None, template)
    part = DataSplit(checked, tokens, np.arange(len(tokens.column("row")))).chunked(max_length).fitting(max_length)
    if not len(part.chosen):
        raise UserError("None of the general text can be used.", "Choose a file with text.", "data")
    spread = np.linspace(0, len(part.chosen) - 1, min(MOST, len(part.chosen))).round().astype(int)
    part = replace(part, chosen=part.chosen[spread])
    return GeneralText(part.dataset(), part.keys())
