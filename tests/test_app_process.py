"""Who may import whom: app -> ui -> trainer; no torch in the app's process, no page in the trainer."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate")


def imported(path: Path) -> set[str]:
    """Top-level names of every module that the file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "trainer").rglob("*.py")), ids=lambda path: path.name)
def test_the_trainer_knows_no_page(path: Path) -> None:
    assert not imported(path) & {"gradio", "plotly", "ui", "app"}


@pytest.mark.parametrize("path", sorted((ROOT / "ui").rglob("*.py")), ids=lambda path: path.name)
def test_the_page_trains_nothing(path: Path) -> None:
    assert not imported(path) & {*HEAVY, "app"}


def test_the_app_process_holds_no_torch(tmp_path: Path) -> None:
    """Build the whole page, plan a run, list the runs: none of it brings torch in."""
    code = f"""
import sys
from pathlib import Path
from dataclasses import replace
import app, ui
from trainer.service.lab import Lab, Settings
from trainer.config.schema import Tick, default_config
lab = Lab(Settings(runs_dir=Path({str(tmp_path)!r}) / "runs"))
page = ui.build(lab)
plan = lab.plan(replace(default_config(), modules=(Tick("q_proj"),)))
assert plan.trainable > 0
lab.store.all()
lab.helper.close()
print(sorted(set(sys.modules) & set({HEAVY!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"
