"""A run's log: its end, a search, all of it, without control characters."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from trainer.common.errors import UserError
from trainer.runs import log_file


def test_a_log_is_read_from_its_end_and_searched(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_bytes(b"one\r\n\x1b[31mred\x1b[0m\x07 alert\n 10%|#\r 20%|##\r100%|###\nlast \xff")
    found = log_file.tail(tmp_path, 2)
    assert [line for _, line in found.lines] == ["100%|###", "last �"]
    assert not found.complete
    assert log_file.tail(tmp_path, 9).complete
    assert log_file.search(tmp_path, "ALERT", 5).lines == ((2, "red\\x07 alert"),)
    assert "".join(log_file.whole(tmp_path)).splitlines()[0] == "one"
    event = {"type": "eval", "time": 1795848063.7, "step": 4, "eval_loss": 1.23456789}
    (tmp_path / "events.jsonl").write_text(f'{{"type": "log", "text": "Reading demo"}}\n{json.dumps(event)}\n')
    assert log_file.search(tmp_path, "eval_loss 1.2346", 5).found == 1
    lines = [line for _, line in log_file.tail(tmp_path, 5).lines]
    assert [lines[0][-28:], lines[1]] == ["eval: step 4, eval_loss 1.2346"[-28:], "one"], "events come first"
    assert "".join(log_file.whole(tmp_path)).splitlines()[0] == "Reading demo"
    (tmp_path / "worker.log").unlink()
    (tmp_path / "worker.log").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is a device, not a file"):
        log_file.tail(tmp_path, 5)


def test_a_large_log_takes_no_time_at_its_end(tmp_path: Path) -> None:
    line = b"step 12345: loss 1.2345, a line of about eighty characters, as workers write it\n"
    (tmp_path / "worker.log").write_bytes(line * (50_000_000 // len(line)) + b"the end\n")
    began = time.process_time()
    found = log_file.tail(tmp_path, 200)
    assert time.process_time() - began < 0.5
    assert log_file.search(tmp_path, "THE END", 5).found == 1
    assert len(found.lines) == 200
    assert found.lines[-1] == (0, "the end")
