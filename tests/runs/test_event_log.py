from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.runs import event_log, metrics_file
from trainer.runs.event_log import EventWriter
from trainer.runs.history import History

ROOT = Path(__file__).parents[2]


def test_a_torn_last_row_waits_and_a_new_writer_cuts_it_off(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    event_log.append(path, "metrics", step=1, loss=2.0)
    with path.open("ab") as file:
        file.write(b'{"type": "metrics", "step": 2, "lo')
    rows, offset = event_log.read(path)
    assert [row["step"] for row in rows] == [1]
    event_log.append(path, "metrics", step=2, loss=1.5)
    rows, _ = event_log.read(path, offset)
    assert [(row["step"], row["loss"]) for row in rows] == [(2, 1.5)]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_file_that_is_one_torn_row_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type": "met' * 10_000)
    event_log.append(path, "log", text="on we go")
    assert [row["text"] for row in event_log.read(path)[0]] == ["on we go"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_becomes_null(value: float, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    event_log.append(path, "metrics", step=1, loss=value)
    assert event_log.read(path)[0][0]["loss"] is None
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()


def test_the_last_event_of_a_step_wins(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for step, loss in ((1, 3.0), (2, 2.0), (2, 1.0), (3, None)):
        event_log.append(path, "metrics", step=step, loss=loss)
    history = History(tmp_path).refresh()
    steps, losses = history.train.curve("loss")
    assert steps.tolist() == [1, 2, 3]
    assert losses[:2].tolist() == [3.0, 1.0]
    assert np.isnan(losses[2]), "a gap, never 0"
    assert history.latest["loss"] == 1.0
    assert history.step == 3


def written(folder: Path, steps: int) -> Path:
    """A run with a state, `steps` steps, an eval and a log line, written as a worker does."""
    writer = EventWriter(folder / "events.jsonl", figures=True)
    writer.write("state", state="running", steps=steps)
    for step in range(1, steps + 1):
        writer.write("metrics", step=step, loss=1 / step, grad_norm=float("nan"), unknown="x")
        if step == steps // 2:
            writer.write("log", text="half")
            writer.write("eval", step=step, eval_loss=0.5)
    writer.close()
    return folder / "events.jsonl"


def told(folder: Path) -> tuple[object, ...]:
    history = History(folder).refresh()
    curves = [table.curve(name) for table in (history.train, history.evals) for name in ("loss", "eval_loss")]
    numbers = [(steps.tolist(), np.nan_to_num(values, nan=-1).tolist()) for steps, values in curves]
    return numbers, history.latest, history.recorded, history.steps, history.log, history.best_eval_loss


@pytest.mark.parametrize("harm", ["none", "missing", "torn", "lagging", "empty", "of another run", "ahead", "wrong"])
def test_a_derived_file_never_changes_what_is_told(harm: str, tmp_path: Path) -> None:
    path = written(tmp_path, 40)
    derived = tmp_path / metrics_file.FILE
    rows = derived.read_bytes()
    width = len(rows) // 41
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "events.jsonl").write_bytes(path.read_bytes())
    (tmp_path / "other").mkdir()
    written(tmp_path / "other", 41)
    harms: dict[str, Callable[[], object]] = {
        "none": lambda: None,
        "missing": derived.unlink,
        "torn": lambda: derived.write_bytes(rows[:-7]),
        "lagging": lambda: derived.write_bytes(rows[: 5 * width]),
        "empty": lambda: derived.write_bytes(b""),
        "of another run": lambda: derived.write_bytes((tmp_path / "other" / metrics_file.FILE).read_bytes()),
        "ahead": lambda: derived.write_bytes(rows + rows[-width:]),
        "wrong": lambda: derived.write_bytes(bytes(reversed(rows))),
    }
    harms[harm]()
    assert told(tmp_path) == told(tmp_path / "plain")
    EventWriter(path, figures=True).close()
    assert derived.read_bytes() == rows, "a writer makes it whole again"
    assert told(tmp_path) == told(tmp_path / "plain")


def test_a_long_run_is_not_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, 2000)
    parsed: list[bytes] = []

    def loads(line: bytes) -> Any:
        parsed.append(line)
        return json.JSONDecoder().decode(line.decode())

    monkeypatch.setattr("trainer.runs.event_log.json.loads", loads)
    assert len(History(tmp_path).refresh().train) == 2000
    assert len(parsed) < 30


def test_a_full_disk_leaves_no_torn_row(tmp_path: Path) -> None:
    """A real limit of the file's size: the kernel writes what fits, then refuses."""
    path = written(tmp_path, 3)
    before = path.read_bytes()
    code = (
        "import resource, sys, pathlib\nfrom trainer.runs.event_log import EventWriter\n"
        "path = pathlib.Path(sys.argv[1]); writer = EventWriter(path)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20,) * 2)\n"
        "try:\n    writer.write('log', text='x' * 100)\nexcept OSError as error:\n    print(error.errno)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT)
    assert answer.stdout.strip() == str(errno.EFBIG), answer.stderr
    assert path.read_bytes() == before


def test_an_event_of_a_signal_handler_stands_after_the_one_it_came_in_the_middle_of(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = EventWriter(
        path, echo=lambda event: writer.write("log", text="late") if event["type"] == "state" else None
    )
    writer.write("state", state="running")
    assert [event["type"] for event in event_log.read(path)[0]] == ["state", "log"]


@pytest.mark.parametrize(
    "junk", [b"\n\n", b"[1]\n", b'"x"\n', b"\xff\xfe\n", b'{"type": 3}\n', b'{"type": "metrics"}\n']
)
def test_foreign_rows_are_passed_over(junk: bytes, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(junk)
    event_log.append(path, "state", state="running", steps=5)
    history = History(tmp_path).refresh()
    assert (history.recorded, history.steps) == ("running", 5)
