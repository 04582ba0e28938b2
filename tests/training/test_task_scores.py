"""Short answers are scored by generating them: what is learned is seen in the figures, and nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import small_config
from trainer.config.schema import RunConfig
from trainer.data.readers.uploads import keep_data
from trainer.runs import row_losses
from trainer.training import loop

ANSWERS = ("On the mat.", "In the hill")


def config_of(tmp_path: Path, answer: str, samples: int = 1) -> RunConfig:
    rows = tmp_path / f"{len(answer)}.jsonl"
    lines = [{"instruction": f"Where is cat {number}?", "response": answer} for number in range(120)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"learning_rate": 3e-2, "full_learning_rate": 3e-2, "samples": samples, "eval_steps": 60}
    config = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=60, **settings)
    return replace(config, data=replace(config.data, path=keep_data(rows, tmp_path / "data")))


def train(config: RunConfig, models_dir: Path, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    folder, events = tmp_path / f"run-{len(list(tmp_path.iterdir()))}", list[dict[str, Any]]()
    folder.mkdir()
    places = loop.RunPaths(folder, models_dir, tmp_path / "data")
    loop.train(config, places, lambda type, **values: events.append({"type": type, **values}), lambda: False)
    return folder, events


def losses(events: list[dict[str, Any]]) -> list[float]:
    return [event["loss"] for event in events if event["type"] == "metrics"]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_learned_becomes_right(answer: str, models_dir: Path, tmp_path: Path) -> None:
    folder, events = train(config_of(tmp_path, answer), models_dir, tmp_path)
    known = row_losses.read(folder)
    for name in (row_losses.EXACT_MATCH, row_losses.CONTAINS):
        found = known[name]
        assert found.before is not None and found.after is not None
        assert (found.before.mean(), found.after.mean(), found.step) == (1.0, 0.0, 60)
        assert len(found.tokens) == 15
    said = [event["text"] for event in events if "match exactly" in event.get("text", "")]
    assert len(said) == 2 and "100 % match exactly" in said[1]
    plain, without = train(config_of(tmp_path, answer, samples=0), models_dir, tmp_path)
    assert losses(without) == losses(events), "scoring changes nothing that is learned"
    assert row_losses.EXACT_MATCH not in row_losses.read(plain)


def test_long_answers_are_not_scored(models_dir: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, "It sat on the mat and then it ran up the hill, and there it sat. " * 2)
    config = replace(config, training=replace(config.training, max_steps=2))
    folder, events = train(config, models_dir, tmp_path)
    assert row_losses.EXACT_MATCH not in row_losses.read(folder)
    assert not any("match exactly" in event.get("text", "") for event in events)
