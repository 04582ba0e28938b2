"""Checks that a tokenizer's files are readable and that the model has an embedding row for every token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from trainer.common.errors import Issue, UserError, first_line
from trainer.common.formatting import size
from trainer.models.module_map import ModuleMap
from trainer.models.safetensors_header import DOWNLOAD_AGAIN, is_pointer
from trainer.models.weight_files import FIELD

MAIN = "tokenizer.json"
CONFIG = "tokenizer_config.json"
_OBJECTS = (MAIN, CONFIG, "special_tokens_map.json", "added_tokens.json", "generation_config.json")
"""Files that hold a JSON object. The last one is no tokenizer's, but read whenever the model is loaded."""
_OTHERS = ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "chat_template.jinja")
_IN_EVERY_TEXT = ("bos_token", "eos_token", "pad_token")
MAX_BYTES = 100_000_000
"""Of one file; the largest published ones have about 35 MB."""
MAX_TOKENS, MAX_ADDED = 2_000_000, 100_000
"""The largest published vocabulary has 901,629 tokens (XLM-V). Added tokens cost transformers far more time."""


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of a tokenizer.json."""

    highest: int
    """Highest id of the regular tokens; -1 if there are none."""
    added: Mapping[str, int]
    """Added tokens, such as `<|image|>`, some of which plain text never uses."""


def tokenizer_issues(name: str, folder: Path, module_map: ModuleMap | None) -> tuple[list[Issue], list[Issue]]:
    """What is wrong with a tokenizer's files, and what may be, if their rare tokens are used."""
    issues, found = _examined(name, folder)
    if issues or MAIN not in found or module_map is None:
        return issues, []
    return _beyond(name, found[MAIN], found.get(CONFIG, {}), _rows(module_map))


def check_tokenizer(name: str, folder: Path) -> None:
    """Raises UserError for files that are damaged, or too large to be loaded."""
    issues, _ = _examined(name, folder)
    if issues:
        raise UserError(" ".join(issue.problem for issue in issues), issues[0].fix)


def _examined(name: str, folder: Path) -> tuple[list[Issue], dict[str, Any]]:
    """What is wrong with the files, and what is in those that hold an object."""
    issues, found = list[Issue](), dict[str, Any]()
    for file in (*_OBJECTS, *_OTHERS):
        try:
            status = (folder / file).stat()
            if status.st_size > MAX_BYTES:
                raise ValueError(f"has {size(status.st_size)}, which is more than {size(MAX_BYTES)}")
            if file in _OBJECTS and not is_pointer(folder / file):
                found[file] = _read(folder / file, status.st_size, status.st_mtime_ns)
        except OSError:
            continue
        except ValueError as error:
            issues.append(Issue(FIELD, f"The {file} of {name} {error}.", DOWNLOAD_AGAIN))
    return issues, found


def _beyond(
    name: str, vocabulary: Vocabulary, config: Mapping[str, Any], rows: int
) -> tuple[list[Issue], list[Issue]]:
    """Issue or warning of tokens that the model has no row for."""
    beyond = {token: number for token, number in vocabulary.added.items() if number >= rows > 0}
    used = [vocabulary.added[token] for token in _always(config) if token in beyond]
    highest = max(vocabulary.highest, *used, -1)
    if highest >= rows > 0:
        problem = f"The tokenizer of {name} has ids up to {highest:,}, but the model's embedding has {rows:,} rows."
        return [Issue(FIELD, problem, "Use the tokenizer that was published with these weights.")], []
    if not beyond:
        return [], []
    problem = f"The tokenizer of {name} has the token {min(beyond)}, for which the model's embedding has no row."
    return [], [Issue(FIELD, problem, "Do not use it in the data.")]


def _always(config: Mapping[str, Any]) -> Iterator[str]:
    """The tokens around every text, from tokenizer_config.json."""
    for key in _IN_EVERY_TEXT:
        value = config.get(key)
        yield str(value.get("content") if isinstance(value, dict) else value)


def _rows(module_map: ModuleMap) -> int:
    """Rows of the token embedding; 0 if it is not a single plain matrix."""
    rows = [
        kind.shape[0]
        for kind in module_map.kinds
        if kind.group == "embedding" and kind.class_name == "Embedding" and not kind.tower
    ]
    return min((count for count in rows if count >= module_map.vocab_size), default=0)


@lru_cache(maxsize=256)
def _read(path: Path, _bytes: int, _time: int) -> Any:
    """A Vocabulary, or the object in another file. Raises ValueError with a clause that says what is wrong."""
    data = path.read_bytes()
    if not data.strip():
        raise ValueError("is empty")
    try:
        value = orjson.loads(data) if path.name == MAIN else json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    if path.name != MAIN:
        return value
    try:
        found = _vocabulary(value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError("does not describe a tokenizer") from error
    if found.highest >= MAX_TOKENS or len(found.added) > MAX_ADDED:
        raise ValueError(f"has more than {MAX_TOKENS:,} tokens, or more than {MAX_ADDED:,} added ones")
    return found


def _vocabulary(value: dict[str, Any]) -> Vocabulary:
    added = {str(token["content"]): int(token["id"]) for token in value.get("added_tokens") or ()}
    tokens = value["model"].get("vocab", {})
    if isinstance(tokens, list):  # Unigram: a token's id is its place
        ids = (number for number, (token, *_) in enumerate(tokens) if token not in added)
    else:
        ids = (int(number) for token, number in tokens.items() if token not in added)
    return Vocabulary(max(ids, default=-1), added)
