"""Measures how long the attribution of a run on the demo takes, from start to result, and whether it adds up.

python benchmarks/attribution.py [--steps 60]     a minute or two; processes have one thread, as beside the page
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=60, help="steps of the run that is measured")
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        command([folder, "train", "--set", "model.name=demo", "--set", f"training.max_steps={steps}"])
        run = next(path.name for path in Path(folder).iterdir() if path.name[:2] == "20")
        began, used = time.perf_counter(), cpu_seconds()
        found = json.loads(command([folder, "attribute", run, "--json"]))
        wall, cpu = time.perf_counter() - began, cpu_seconds() - used
    rows, tokens, kinds = found["rows"], found["tokens"], len(found["kinds"])
    print(f"{rows} rows, {tokens:,} counted tokens, {kinds} kinds, {found['points']} points")
    print(f"{wall:.1f} s by the clock, {cpu:.1f} s of CPU time; of it {found['seconds']} s without starting Python")
    print(f"gain {found['gain']:.4f}, shares add up within {100 * found['error']:.2f} %")
    for kind in found["kinds"]:
        print(f"  {kind['name']:12} {100 * kind['of_gain']:5.1f} %")
    return 0


def command(arguments: list[str]) -> str:
    """The output of a command of `python -m trainer`, with a runs folder."""
    line = [sys.executable, "-m", "trainer", "--runs-dir", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def cpu_seconds() -> float:
    """CPU time of the commands so far."""
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)


if __name__ == "__main__":
    sys.exit(main())
