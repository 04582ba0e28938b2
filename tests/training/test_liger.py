"""Liger's kernels compute what the model's own layers do, for every type that the page offers them for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.planning.performance import LIGER_TYPES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="Triton, in which Liger is written, is for Linux only")
@pytest.mark.full  # each takes a minute in Triton's interpreter
@pytest.mark.parametrize("kind", LIGER_TYPES)
def test_liger_changes_nothing_that_is_learned(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.liger", kind], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])[kind]
    plain, liger = found["plain"], found["liger"]
    assert not any("Liger" in name for name in plain["kernels"])
    assert {"LigerRMSNorm"} < {name for name in liger["kernels"] if "Liger" in name}, "norms, and MLPs"
    assert liger["trained"] == plain["trained"]
    assert len(plain["steps"]) == 3
    assert plain["steps"][0] != plain["steps"][2]
    for ours, theirs in zip(liger["steps"], plain["steps"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert liger["held out"] == pytest.approx(plain["held out"], rel=1e-5)
