"""Whole files and folders: what a reader finds after a kill, an exception, and while others write."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.common import atomic

WRITER = """
import sys
from pathlib import Path
from trainer.common import atomic
target = Path(sys.argv[1])
print("ready", flush=True)
while True:
    for letter in "ab":
        atomic.write(target / "file", letter * 300_000, durable=False)
        with atomic.new_folder(target / "folder", durable=False, replace=True) as draft:
            for number in range(20):
                (draft / str(number)).write_text(letter)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_writer_killed_at_any_moment_leaves_a_whole_file_and_no_mixed_folder(tmp_path: Path) -> None:
    for moment in (0.05, 0.11, 0.17):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(moment)
            writer.send_signal(signal.SIGKILL)
        text = (tmp_path / "file").read_text()
        assert len(text) == 300_000
        assert len(set(text)) == 1
        if (tmp_path / "folder").exists():  # between the old one and the new one there is a moment without
            found = {path.read_text() for path in (tmp_path / "folder").iterdir()}
            assert len(names(tmp_path / "folder")) == 20
            assert len(found) == 1


def test_what_raises_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    atomic.write(tmp_path / "file", "before")
    with atomic.new_folder(tmp_path / "folder") as draft:
        (draft / "inside").write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic.new_file(tmp_path / "file") as file:
        file.write(b"after")
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "file", float("nan"))
    with pytest.raises(KeyboardInterrupt), atomic.new_folder(tmp_path / "folder", replace=True) as draft:
        (draft / "inside").write_text("after")
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="not empty"), atomic.new_folder(tmp_path / "folder"):
        pass
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "inside").read_text() == "before"


def test_a_folder_takes_the_place_of_another_and_is_private(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with atomic.new_folder(tmp_path / "folder", replace=True) as draft:
            (draft / text).write_text(text)
            assert names(tmp_path / "folder") == ["one"] if text == "two" else not (tmp_path / "folder").exists()
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["two"]
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    atomic.write(tmp_path / "file", "text")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
