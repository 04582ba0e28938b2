from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer import events
from trainer.history import History


def test_a_torn_last_row_waits_and_a_new_writer_cuts_it_off(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events.append(path, "metrics", step=1, loss=2.0)
    with path.open("ab") as file:
        file.write(b'{"type": "metrics", "step": 2, "lo')
    rows, offset = events.read(path)
    assert [row["step"] for row in rows] == [1]
    events.append(path, "metrics", step=2, loss=1.5)
    rows, _ = events.read(path, offset)
    assert [(row["step"], row["loss"]) for row in rows] == [(2, 1.5)]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_file_that_is_one_torn_row_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type": "met' * 10_000)
    events.append(path, "log", text="on we go")
    assert [row["text"] for row in events.read(path)[0]] == ["on we go"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_becomes_null(value: float, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events.append(path, "metrics", step=1, loss=value)
    assert events.read(path)[0][0]["loss"] is None
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()


def test_the_last_event_of_a_step_wins(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for step, loss in ((1, 3.0), (2, 2.0), (2, 1.0), (3, None)):
        events.append(path, "metrics", step=step, loss=loss)
    history = History(tmp_path).refresh()
    assert {step: row["loss"] for step, row in history.train.items()} == {1: 3.0, 2: 1.0, 3: None}
    assert history.latest["loss"] == 1.0
    assert history.step == 3


@pytest.mark.parametrize(
    "junk", [b"\n\n", b"[1]\n", b'"x"\n', b"\xff\xfe\n", b'{"type": 3}\n', b'{"type": "metrics"}\n']
)
def test_foreign_rows_are_passed_over(junk: bytes, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(junk)
    events.append(path, "state", state="running", steps=5)
    history = History(tmp_path).refresh()
    assert (history.recorded, history.steps) == ("running", 5)
