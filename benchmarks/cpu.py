"""Compares our training step and our defaults with others on a CPU, in fresh single-threaded processes.

python benchmarks/cpu.py step                our step against the same step in a bare TRL script; five minutes
python benchmarks/cpu.py defaults            our defaults against TRL's, on answers of ragged lengths
python benchmarks/cpu.py defaults --llamafactory FOLDER   and against LLaMA-Factory's, in an environment created there
Order ABBA; medians, and 95 % bootstrap intervals of the ratio of medians. Nothing is printed if the contenders do not
train the same parameters, or their losses differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONTENDERS = ROOT / "benchmarks" / "contenders.py"
ANSWERS = ROOT / "trainer" / "demo" / "data" / "pirate.jsonl"
LLAMAFACTORY = (
    "torch==2.13.0", "transformers==5.6.0", "peft==0.18.1", "accelerate==1.11.0", "datasets==4.0.0", "trl==0.24.0",
    "einops", "fire", "omegaconf", "pyyaml", "scipy", "sentencepiece", "sse-starlette", "tiktoken", "tyro<0.9.0",
    "torchdata==0.11.0", "av<=16.0.0", "hf-transfer", "matplotlib", "protobuf", "fastapi", "uvicorn", "pandas",
    "numpy",
)  # fmt: skip
"""Requirements of llamafactory 0.9.5 at the newest allowed versions, without its web UI, image and audio packages."""
SAME_LOSS, NEAR_LOSS = 1e-4, 0.1
"""Allowed relative differences: of losses at the same steps, and of mean losses over as many steps."""
STEP, RATE = ("step", "step_cpu"), ("examples_per_second", "examples_per_cpu_second")
"""By wall clock, and by CPU time, which is reliable on a busy machine."""
Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=["step", "defaults"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=45)
    parser.add_argument(
        "--llamafactory", type=Path, metavar="FOLDER", help="folder for its environment, created once"
    )
    parser.add_argument("--json", type=Path, help="write every measured row there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return (step if options.part == "step" else defaults)(options, Path(folder))


def step(options: argparse.Namespace, folder: Path) -> int:
    """The same step with ours and with TRL: batches, padding, losses, optimizer; the loss is logged at each step."""
    task = {"same": True, "rows": str(ANSWERS), "max_length": 128, "batch": 8, "steps": options.steps}
    task |= {"learning_rate": 1e-3}
    rows = measure({"ours": task, "trl": task}, options, {})
    compare_losses(rows, "ours", "trl")
    print_head(options)
    print_ratio("a step, ours ÷ the same in a bare TRL script", rows, "ours", "trl", STEP, "≤ 1.02")
    print_ratio("start to first step, ours ÷ bare TRL", rows, "ours", "trl", ("first",), "≤ 1.05")
    return 0


def defaults(options: argparse.Namespace, folder: Path) -> int:
    """Each with its defaults on the same ragged answers, with the same model, LoRA, batch and maximum length."""
    rows_file = folder / "ragged.jsonl"
    save_ragged(rows_file, options.steps * 8)
    task = {"same": False, "rows": str(rows_file), "max_length": 256, "batch": 8, "learning_rate": 1e-3}
    task |= {"steps": options.steps, "evaluate": True}
    tasks = {"ours": task, "ours, no evaluations": task | {"evaluate": False}, "trl": task}
    pythons = {}
    if options.llamafactory:
        python = make_llamafactory(options.llamafactory)
        pythons = {"llamafactory": python, "loop there": python}
        tasks |= {"loop": task, "llamafactory": task, "loop there": task}
    rows = measure(tasks, options, pythons)
    trained = {row["names"] for who in tasks for row in rows[who]}
    if len(trained) > 1:
        raise SystemExit(f"The contenders do not train the same parameters: {trained}")
    for who in tasks:
        compare_mean_losses(rows, who, "trl")
    print_head(options)
    print_ratio("our defaults ÷ TRL's, non-pad tokens/s", rows, "ours", "trl", RATE, "≥ 1.4")
    print_ratio("the same without our evaluations", rows, "ours, no evaluations", "trl", RATE, "")
    if options.llamafactory:
        ours, theirs = normalized(rows, "ours", "loop"), normalized(rows, "llamafactory", "loop there")
        print_ratio("ours ÷ LLaMA-Factory's, each ÷ a bare loop", {"a": ours, "b": theirs}, "a", "b", RATE, "≥ 1.4")
        print_ratio("ours ÷ LLaMA-Factory's, as they are", rows, "ours", "llamafactory", RATE, "")
        print_ratio("a bare loop here ÷ there", rows, "loop", "loop there", RATE, "")
    return 0


def save_ragged(path: Path, count: int) -> None:
    """The demo's questions with one to twelve of its answers each: most short, some long, like real data."""
    source = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()][:count]
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for row in source:
            answers = min(12, max(1, round(rng.lognormvariate(0.6, 0.8))))
            more = " ".join(rng.choice(source)["response"] for _ in range(answers - 1))
            answer = f"{row['response']} {more}".strip()
            file.write(json.dumps({"instruction": row["instruction"], "response": answer}) + "\n")


def measure(tasks: dict[str, Row], options: argparse.Namespace, pythons: dict[str, str]) -> dict[str, list[Row]]:
    """Every task once per round, in alternating order."""
    results: dict[str, list[Row]] = {who: [] for who in tasks}
    for number in range(options.rounds):
        for who in tasks if number % 2 == 0 else reversed(tasks):
            way = {"loop there": "loop", "ours, no evaluations": "ours"}.get(who, who)
            results[who].append(run(tasks[who] | {"who": way}, pythons.get(who, sys.executable)))
            shown = {
                key: round(results[who][-1][key], 4)
                for key in ("step", "step_cpu", "first", "examples_per_second", "examples_per_cpu_second")
            }
            print(f"round {number + 1}: {who} {shown}", file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results


def run(task: Row, python: str) -> Row:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "DISABLE_VERSION_CHECK": "1"}
    task = task | {"spawned": time.time()}
    done = subprocess.run(
        [python, str(CONTENDERS), json.dumps(task)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{task['who']} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def make_llamafactory(folder: Path) -> str:
    """The Python of an environment with LLaMA-Factory, which is created on the first call."""
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *LLAMAFACTORY], check=True)
        subprocess.run([*pip, "--no-deps", "llamafactory==0.9.5"], check=True)
        code = '"""Stands in for torchaudio, whose wheels need CUDA: training on text only imports it."""\n'
        site = next((folder / "lib").glob("python3*/site-packages"))
        (site / "torchaudio.py").write_text(code, encoding="utf-8")
        (folder / "made").touch()
    return str(python)


def compare_losses(rows: dict[str, list[Row]], one: str, other: str) -> None:
    """Exit if two contenders train different parameters, or have different losses at any step."""
    for ours, theirs in zip(rows[one], rows[other], strict=True):
        if ours["names"] != theirs["names"]:
            raise SystemExit(f"{one} and {other} do not train the same parameters.")
        for number, (left, right) in enumerate(zip(ours["losses"], theirs["losses"], strict=True), 1):
            if abs(left - right) > SAME_LOSS * abs(right):
                raise SystemExit(f"The losses differ at step {number}: {one} {left:.6f}, {other} {right:.6f}.")


def compare_mean_losses(rows: dict[str, list[Row]], one: str, other: str) -> None:
    """Exit if the mean losses of two contenders over the run differ too much."""
    left, right = (statistics.fmean(statistics.fmean(row["losses"]) for row in rows[who]) for who in (one, other))
    if abs(left - right) > NEAR_LOSS * right:
        raise SystemExit(f"{one} and {other} do not learn the same: mean losses {left:.4f} and {right:.4f}.")


def normalized(rows: dict[str, list[Row]], who: str, loop: str) -> list[Row]:
    """Each row's rate divided by that of the bare loop in the same round."""
    pairs = zip(rows[who], rows[loop], strict=True)
    return [{key: row[key] / other[key] for key in RATE} for row, other in pairs]


def print_head(options: argparse.Namespace) -> None:
    names = ("torch", "transformers", "peft", "trl")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    load = " ".join(f"{item:.1f}" for item in os.getloadavg())
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, load {load}, {versions}")
    print(f"{options.rounds} rounds of {options.steps} steps\n")
    print("| what | wall clock | CPU time | goal |\n|---|---|---|---|")


def print_ratio(
    what: str, rows: dict[str, list[Row]], one: str, other: str, keys: tuple[str, ...], goal: str
) -> None:
    """A row of the table: the ratio of medians and its interval, by wall clock and CPU time."""
    cells = []
    for key in keys:
        pairs = [(a[key], b[key]) for a, b in zip(rows[one], rows[other], strict=True)]
        low, high = interval(pairs)
        cells.append(f"{ratio(pairs):.2f} ({low:.2f}–{high:.2f})")
    print(f"| {what} | {' | '.join(cells)}{' |' * (3 - len(cells))} {goal} |", flush=True)


def ratio(pairs: list[tuple[float, float]]) -> float:
    """The ratio of medians."""
    return statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)


def interval(pairs: list[tuple[float, float]], draws: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the ratio of medians."""
    rng = random.Random(0)
    ratios = sorted(ratio(rng.choices(pairs, k=len(pairs))) for _ in range(draws))
    return ratios[int(draws * 0.025)], ratios[int(draws * 0.975)]


if __name__ == "__main__":
    sys.exit(main())
