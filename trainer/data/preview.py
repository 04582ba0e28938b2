"""Single examples as the model sees them, token by token: what counts, what is context, what is cut off."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from trainer.common.errors import UserError
from trainer.config.schema import RunConfig
from trainer.data.preparation import DataSplit, LoadedData, load_data

SHOWN_TOKENS = 4000
"""Tokens of one example that are handed on; of a longer one, the rest is counted."""
WHICH = re.compile(r"(-?\d{1,9})|random|longest|shortest")


def examples(config: RunConfig, tokenizer: Any, data_dir: Path, which: str, seed: int = 0) -> dict[str, Any]:
    """One training example. `which`: its number from 0 on, random, longest or shortest.

    Raises UserError where there is none.
    """
    found, number = find(config, tokenizer, data_dir, which, seed)
    return _shown(found, number, tokenizer, config.training.max_length)


def find(config: RunConfig, tokenizer: Any, data_dir: Path, which: str, seed: int = 0) -> tuple[LoadedData, int]:
    """The data, and the number of one training example. Raises UserError where there is none."""
    found = load_data(config.data, tokenizer, config.training.max_length, config.training.seed, data_dir)
    part = found.train
    if not len(part.chosen):
        raise UserError("There is no example to show.", "See what is wrong with the rows.", "data")
    return found, _number(part, which, seed)


def _number(part: DataSplit, which: str, seed: int) -> int:
    match = WHICH.fullmatch(which)
    if match is None:
        raise UserError(f"“{which[:40]}” is no example.", "Name a number, random, longest or shortest.", "data")
    if match[1]:
        return int(match[1]) % len(part.chosen)
    if which == "random":
        return int(np.random.default_rng(seed or None).integers(len(part.chosen)))
    sizes = part.column("length")
    return int(sizes.argmax() if which == "longest" else sizes.argmin())


def _shown(found: LoadedData, number: int, tokenizer: Any, max_length: int) -> dict[str, Any]:
    part = found.train
    row = part.tokens.dataset()[int(part.chosen[number])]
    source = part.checked.dataset()[row["row"]]
    ids, counts = row["input_ids"], row["counts"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    runs = [
        {
            "text": text,
            "kind": _kind(place, counts[place], max_length),
            "special": ids[place] in special,
            "tokens": size,
        }
        for place, size, text in pieces(ids[:SHOWN_TOKENS], tokenizer)
    ]
    return {
        "number": number,
        "of": len(part.chosen),
        "file": part.checked.account["files"][source["file"]],
        "line": source["line"],
        "length": len(ids),
        "counted": int(sum(counts[:max_length])),
        "cut": max(len(ids) - max_length, 0),
        "hidden": max(len(ids) - SHOWN_TOKENS, 0),
        "tokens": runs,
    }


def _kind(place: int, counts: bool, max_length: int) -> str:
    if place >= max_length:
        return "cut"
    return "counts" if counts else "context"


def pieces(ids: list[int], tokenizer: Any) -> list[tuple[int, int, str]]:
    """(first token, number of tokens, their text); several tokens that make one character stay together."""
    found: list[tuple[int, int, str]] = []
    # decoders of some kinds drop a space at the beginning of a text: so the text begins with something else
    anchor = tokenizer.encode("a", add_special_tokens=False)
    known = len(_decoded(anchor, tokenizer))
    start = 0
    for end in range(1, len(ids) + 1):
        text = _decoded([*anchor, *ids[start:end]], tokenizer)[known:]
        if text.endswith("\N{REPLACEMENT CHARACTER}") and end < len(ids) and end - start < 8:
            continue
        found.append((start, end - start, text))
        start = end
    return found


def _decoded(ids: list[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
