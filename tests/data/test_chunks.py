"""Plain text of any length trains whole: in chunks, with its borders, and with something held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from trainer.config.schema import DataConfig, RunConfig, TrainingConfig
from trainer.data import preview
from trainer.data.preparation import LoadedData, load_data, prepare
from trainer.data.quality_report import report


def loaded(folder: Path, texts: list[str], max_length: int, **settings: Any) -> LoadedData:
    (folder / "book.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = DataConfig(source="file", path="book.jsonl", **settings)
    return load_data(data, tiny.tokenizer(), max_length, 0, folder)


@pytest.mark.parametrize("max_length", [8, 33, 64, 4096])
def test_chunks_put_together_are_the_documents_with_their_borders(tmp_path: Path, max_length: int) -> None:
    texts = ["the cat sat on the mat " * 40, "short", "the dog ran " * 3, "x" * 129]
    found = loaded(tmp_path, texts, max_length, eval_fraction=0.0).train
    dataset = found.tokens.dataset()
    tokenizer = tiny.tokenizer()
    for row, text in enumerate(texts):
        pieces = [dataset[int(place)] for place in np.flatnonzero(found.column("row") == row)]
        ids = [token for piece in pieces for token in piece["input_ids"]]
        assert tokenizer.decode(ids) == text.rstrip() + "</s>" or tokenizer.decode(ids) == text + "</s>"
        sizes = [piece["length"] for piece in pieces]
        assert max(sizes) <= max_length
        assert max(sizes) - min(sizes) <= 1
        assert all(len(piece["input_ids"]) == len(piece["counts"]) == piece["length"] for piece in pieces)
    prepared = prepare(DataConfig(source="file", path="book.jsonl"), tokenizer, max_length, 0, tmp_path)
    assert not any("cut off" in note for note in prepared.notes)


def test_conversations_among_documents_are_not_cut_into_chunks(tmp_path: Path) -> None:
    rows = [{"text": "the cat " * 60}, {"prompt": "the dog " * 60, "completion": "ran"}]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(source="file", path="mixed.jsonl", eval_fraction=0.0)
    part = load_data(data, tiny.tokenizer(), 32, 0, tmp_path).train
    assert np.sum(part.column("row") == 1) == 1
    assert np.sum(part.column("row") == 0) > 1


def test_a_single_book_has_something_held_out_and_a_report_that_adds_up(tmp_path: Path) -> None:
    found = loaded(tmp_path, ["the cat sat on the mat " * 200], 64, eval_fraction=0.1)
    assert found.held_out is not None
    assert not set(found.train.chosen) & set(found.held_out.chosen)
    assert len(found.held_out.chosen) == round(0.1 * (len(found.train.chosen) + len(found.held_out.chosen)))
    config = RunConfig(
        data=DataConfig(source="file", path="book.jsonl", eval_fraction=0.1), training=TrainingConfig(max_length=64)
    )
    value = report(config, tiny.tokenizer(), tmp_path)
    assert value["tokens"]["longer"] == value["tokens"]["answers_cut"] == 0
    assert value["tokens"]["examples"] == len(found.train.chosen)
    assert value["tokens"]["counted"] == value["tokens"]["total"] - value["tokens"]["examples"]
    shown = preview.examples(config, tiny.tokenizer(), tmp_path, "longest")
    assert shown["cut"] == 0
    assert shown["length"] <= 64
