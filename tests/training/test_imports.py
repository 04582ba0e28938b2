"""What a worker imports before it can train: every run and every resume waits for it."""

from __future__ import annotations

import subprocess
import sys

LOADED = "import sys; from trainer.execution import worker; worker._import_training(); print(*sys.modules)"


def test_a_worker_starts_without_inductor() -> None:
    loaded = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True).stdout.split()
    assert {"bitsandbytes", "peft", "trl"} <= set(loaded)
    assert "torch._inductor.compile_fx" not in loaded
