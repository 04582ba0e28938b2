"""torch's allocator for GPUs is told to grow its segments, unless the user has set it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainer.cli import main
from trainer.execution.scheduler import Scheduler
from trainer.runs.store import RunStore


@pytest.mark.parametrize("name", ["", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_segments_grow_in_workers_and_on_the_command_line(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for known in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(known, "")  # so that it is restored
        monkeypatch.delenv(known)
    if name:
        monkeypatch.setenv(name, "max_split_size_mb:64")
    expected = {name: "max_split_size_mb:64"} if name else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}

    def found(environment: dict[str, str]) -> dict[str, str]:
        return {key: value for key, value in environment.items() if key.endswith("ALLOC_CONF")}

    assert found(Scheduler(RunStore(tmp_path), tmp_path, tmp_path)._environment) == expected
    assert main.main(["--runs-dir", str(tmp_path), "runs"]) == 0
    assert found(dict(os.environ)) == expected
