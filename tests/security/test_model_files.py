"""Model files are the work of strangers: whatever they hold, they load or are refused in a sentence."""

from __future__ import annotations

import json
import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, safe_open

from tests.support import tiny
from trainer.common.errors import UserError
from trainer.config.schema import ModelConfig
from trainer.models.locations import load_tokenizer
from trainer.models.safetensors_header import read_header
from trainer.models.tokenizer_files import tokenizer_issues
from trainer.models.weight_files import parse_index

NASTY: tuple[Any, ...] = (
    None, True, -1, 0.5, 2**63, 2**64, 10**400, 1e308, "", "x", "../x", "\0", "\ud800", [], [[]], {}, {"a": 1},
    [0, 0], [4, 0], [-4, 0], [0, 2**63], [0.0, 8.0], ["0", "8"],
)  # fmt: skip
HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    "b": {"dtype": "BF16", "shape": [8], "data_offsets": [32, 48]},
    "c": {"dtype": "I64", "shape": [], "data_offsets": [48, 56]},
}


def mutated(value: Any, chance: random.Random) -> Any:
    """The value with one part of it, at any depth, replaced, removed or doubled under another name."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.1:
        return chance.choice(NASTY)
    made: Any = dict(value) if isinstance(value, dict) else list(value)
    key = chance.choice(list(made) if isinstance(made, dict) else range(len(made)))
    if chance.random() < 0.15:
        del made[key]
    elif chance.random() < 0.15 and isinstance(made, dict):
        made[f"{key}2"] = made[key]
    else:
        made[key] = mutated(made[key], chance)
    return made


def safetensors(header: Any, data: bytes = bytes(56)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_a_header_that_passes_is_one_that_the_library_reads(tmp_path: Path) -> None:
    chance, passed = random.Random(0), 0
    for number in range(3000):
        content = safetensors(mutated(HEADER, chance) if number else HEADER)
        if number % 3 == 1:  # damage to single bytes as well
            at = chance.randrange(len(content))
            content = content[:at] + bytes([chance.randrange(256)]) + content[at + chance.randrange(2) :]
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        found = read_header(path)
        assert bool(found.problem) == bool(found.fix)
        if not found.problem:
            passed += 1
            try:
                with safe_open(path, "np") as file:
                    assert set(file.keys()) == set(found.tensors), content
            except SafetensorError as error:
                pytest.fail(f"{error}: {content!r}")
    assert 10 < passed < 2000


HEADERS = {
    "overlap": ({**HEADER, "b": {"dtype": "BF16", "shape": [8], "data_offsets": [16, 32]}}, "overlapping"),
    "overlap and gap": (
        {
            "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
            "b": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
            "c": {"dtype": "U8", "shape": [4], "data_offsets": [8, 12]},
        },
        "overlapping",
    ),
    "data type": ({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, "data type, 'F33', to a"),
    "floats": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0.0, 1.0]}}, "valid data_offsets to a"),
    "negative": ({"a": {"dtype": "U8", "shape": [-1, -1], "data_offsets": [0, 1]}}, "valid shape to a"),
    "many": (b'{"a":{}' + b',"b":{}' * 2_000_000 + b"}", "more than 250,000 tensors"),
    "long shape": ({"a": {"dtype": "U8", "shape": [9] * 10**6, "data_offsets": [0, 1]}}, "valid shape to a"),
    "deep": (b'{"a":' + b"[" * 10**6, "not JSON"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_refused_at_once(name: str, tmp_path: Path) -> None:
    header, reason = HEADERS[name]
    (tmp_path / "a.safetensors").write_bytes(safetensors(header))
    started = time.process_time()
    assert reason in read_header(tmp_path / "a.safetensors").problem
    assert time.process_time() - started < 2


def test_a_header_may_claim_any_length_and_a_file_have_any_size(tmp_path: Path) -> None:
    for number, length in enumerate((2**63, 2**64 - 1, 10**8, 0)):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(struct.pack("<Q", length) + b"{}" + bytes(100))
        os.truncate(path, 10**10)  # sparse
        assert read_header(path).problem


def test_an_index_is_read_or_none_is_made_of_it() -> None:
    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}
    chance = random.Random(1)
    assert parse_index(json.dumps(index).encode()) is not None
    for _ in range(2000):
        found = parse_index(json.dumps(mutated(index, chance)).encode())
        assert found is None or all("/" not in shard for shard in found.shards)
    for content in (
        b"[" * 10**6,
        b"",
        b"[]",
        b'{"metadata": {"total_size": 1e999}, "weight_map": {"a": "a.safetensors"}}',
    ):
        parse_index(content)
    assert parse_index(json.dumps({"weight_map": {"a": "../../x.safetensors"}}).encode()) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    tiny.tokenizer().save_pretrained(made)
    (made / "config.json").write_text("{}")
    return made


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_tokenizer(ModelConfig(name="mine"), folder.parent)
    issues, _ = tokenizer_issues("mine", folder, None)
    assert [issue.problem for issue in issues] == [caught.value.problem]
    return caught.value.problem


FILES = {
    "huge": ("tokenizer.json", None, "has 10.0 GB, which is more than 100 MB"),
    "huge settings": ("tokenizer_config.json", None, "has 10.0 GB, which is more than 100 MB"),
    "huge template": ("chat_template.jinja", None, "has 10.0 GB, which is more than 100 MB"),
    "deep": ("tokenizer.json", b'{"a":' + b"[" * 10**5, "is not valid JSON"),
    "deep settings": ("tokenizer_config.json", b"[" * 10**5, "is not valid JSON"),
    "list": ("tokenizer.json", b"[]", "is not a JSON object"),
    "list of settings": ("generation_config.json", b"[]", "is not a JSON object"),
    "no model": ("tokenizer.json", b'{"added_tokens": []}', "does not describe a tokenizer"),
    "far id": ("tokenizer.json", b'{"model": {"vocab": {"a": 4000000000}}}', "more than 2,000,000 tokens"),
    "endless id": ("tokenizer.json", b'{"model": {"vocab": {"a": 1e999}}}', "is not valid JSON"),
}


@pytest.mark.parametrize("name", FILES)
def test_tokenizer_files_of_no_use_are_named_with_the_reason(name: str, folder: Path) -> None:
    file, content, reason = FILES[name]
    (folder / file).write_bytes(content or b"{}")
    if content is None:
        os.truncate(folder / file, 10**10)
    started = time.process_time()
    problem = refusal(folder)
    assert problem.startswith(f"The {file} of mine ")
    assert reason in problem
    assert time.process_time() - started < 2


def test_any_tokenizer_loads_or_is_refused_in_a_sentence(folder: Path) -> None:
    chance = random.Random(2)
    files = {name: json.loads((folder / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json")}
    vocab = files["tokenizer.json"]["model"]["vocab"]
    files["tokenizer.json"]["model"]["vocab"] = dict(list(vocab.items())[:40])
    files["tokenizer.json"]["model"]["merges"] = []
    refused = 0
    for _ in range(60):
        for name, value in files.items():
            (folder / name).write_text(json.dumps(mutated(value, chance)))
        try:
            load_tokenizer(ModelConfig(name="mine"), folder.parent)
        except UserError as error:
            refused += 1
            assert str(error).startswith("The ")
    assert 5 < refused < 60
