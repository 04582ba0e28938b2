"""python -m tools.six_scenarios: the six scenarios on the demo, three seeds each, as docs/six-scenarios.md and .html.

An interrupted experiment is resumed. The HTML file contains plotly.js, so it is not part of the repository.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from trainer.cli.main import main as command
from trainer.config.schema import default_config
from trainer.experiments.experiment import Experiments, default_name
from trainer.planning.scenarios import SETS
from trainer.runs.store import RunStore

DOCS = Path(__file__).parents[1] / "docs"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.six_scenarios", description=__doc__.split("\n")[0])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=-1, help="steps of each run (default: one epoch)")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder to write into (default: docs)")
    options = parser.parse_args(arguments)
    code = _train(options)
    if code:
        return code
    name, runs = options.output / "six-scenarios", ["--runs-dir", str(options.runs_dir)]
    files = ["--html", f"{name}.html", "--markdown", f"{name}.md"]
    return command([*runs, "compare", _newest(options.runs_dir)[0], *files])


def _train(options: argparse.Namespace) -> int:
    """Run the experiment, or resume the newest one."""
    runs = ["--runs-dir", str(options.runs_dir)]
    newest, state = _newest(options.runs_dir)
    if newest and state != "finished":
        return command([*runs, "resume", newest])
    config = default_config()
    config = replace(config, training=replace(config.training, max_steps=options.steps))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.json"
        path.write_text(json.dumps(config.to_json()), encoding="utf-8")
        return command([*runs, "scenarios", str(path), "--seeds", str(options.seeds)])


def _newest(runs_dir: Path) -> tuple[str, str]:
    """Id and state of the newest such experiment; empty if there is none."""
    experiments, name = Experiments(RunStore(runs_dir)), default_name(SETS[0].title, "demo", False)
    newest = next((item for item in experiments.all() if item.name == name), None)
    return (newest.id, str(experiments.summary(newest)["state"])) if newest else ("", "")


if __name__ == "__main__":
    sys.exit(main())
