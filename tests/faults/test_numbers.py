"""Numbers that are none: a run whose loss is NaN ends at once, and nothing of it is drawn as if it were one."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.faults.bench import Bench


def test_a_loss_that_is_no_number_ends_the_run(bench: Bench, models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir / "phi3", tmp_path / "models" / "phi3")
    weights = tmp_path / "models" / "phi3" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = math.nan
    save_file(tensors, weights, {"format": "pt"})
    bench.models_dir = tmp_path / "models"
    run = bench.create(state="starting")
    assert bench.worker(run).wait() == 1
    bench.page_shows(run, "failed", "step 1", "learning rate")
    history = bench.run(run).history
    assert history.cause == "nonfinite"
    rows = [json.loads(line, parse_constant=str) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows if row["type"] == "metrics"] == [None], "plain JSON, and not a zero"
    assert not any(math.isfinite(loss) for loss in history.train.curve("loss")[1])
    assert not run.adapter.exists()
