"""The app's process never imports torch. Who may import whom is a contract in pyproject.toml (`make lint`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.lab import PATIENCE

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate")


def test_the_app_process_holds_no_torch(tmp_path: Path) -> None:
    """Build the whole page, plan a run, list the runs: none of it brings torch in."""
    code = f"""
import sys
from pathlib import Path
from dataclasses import replace
import app, ui
from trainer.service import Lab, Settings, planning
from trainer.config.schema import Tick, default_config
lab = Lab(Settings(runs_dir=Path({str(tmp_path)!r}) / "runs"))
page = ui.build(lab)
plan = planning.plan(lab, replace(default_config(), modules=(Tick("q_proj"),)))
assert plan.trainable > 0
lab.store.all()
lab.close()
print(sorted(set(sys.modules) & set({HEAVY!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"
