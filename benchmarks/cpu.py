"""Our step and our defaults beside those of others, on a CPU: fresh processes in turn, one thread each.

python benchmarks/cpu.py step                our step beside the same step of a bare TRL script; five minutes
python benchmarks/cpu.py defaults            our defaults beside TRL's, on answers of ragged lengths
python benchmarks/cpu.py defaults --llamafactory FOLDER   and beside LLaMA-Factory's, in an environment made there
Order ABBA; medians, and 95 % intervals of the median ratio by bootstrap. Nothing is printed where contenders do not
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
"""What llamafactory 0.9.5 asks for, at the newest it allows, without its page and what reads pictures and sound."""
SAME_LOSS, NEAR_LOSS = 1e-4, 0.1
"""Relative differences: of the losses of the same steps, of the mean loss of the same number of other ones."""
STEP, RATE = ("step", "step_cpu"), ("examples_per_second", "examples_per_cpu_second")
"""By the clock, and by the processor time of the process alone: what a busy machine leaves true."""
Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=["step", "defaults"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=45)
    parser.add_argument("--llamafactory", type=Path, metavar="FOLDER", help="make its environment there, once")
    parser.add_argument("--json", type=Path, help="write every measured row there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return (step if options.part == "step" else defaults)(options, Path(folder))


def step(options: argparse.Namespace, folder: Path) -> int:
    """The same step by us and by TRL: batches, padding, losses, optimizer; a loss logged each step."""
    task = {"same": True, "rows": str(ANSWERS), "max_length": 128, "batch": 8, "steps": options.steps}
    task |= {"learning_rate": 1e-3}
    rows = measure({"ours": task, "trl": task}, options, {})
    compare_losses(rows, "ours", "trl")
    print_head(options)
    print_ratio("a step, ours ÷ the same in a bare TRL script", rows, "ours", "trl", STEP, "≤ 1.02")
    print_ratio("start to first step, ours ÷ bare TRL", rows, "ours", "trl", ("first",), "≤ 1.05")
    return 0


def defaults(options: argparse.Namespace, folder: Path) -> int:
    """Each at its defaults on the same ragged answers, for the same model, LoRA, batch and maximum length."""
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
        near(rows, who, "trl")
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
    """The demo's questions with one to a dozen of its answers each: most short, some long, as people's data are."""
    source = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()][:count]
    dice = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for row in source:
            answers = min(12, max(1, round(dice.lognormvariate(0.6, 0.8))))
            more = " ".join(dice.choice(source)["response"] for _ in range(answers - 1))
            answer = f"{row['response']} {more}".strip()
            file.write(json.dumps({"instruction": row["instruction"], "response": answer}) + "\n")


def measure(tasks: dict[str, Row], options: argparse.Namespace, pythons: dict[str, str]) -> dict[str, list[Row]]:
    """Every task once a round, forwards and backwards by turns."""
    found: dict[str, list[Row]] = {who: [] for who in tasks}
    for number in range(options.rounds):
        for who in tasks if number % 2 == 0 else reversed(tasks):
            way = {"loop there": "loop", "ours, no evaluations": "ours"}.get(who, who)
            found[who].append(run(tasks[who] | {"who": way}, pythons.get(who, sys.executable)))
            shown = {
                key: round(found[who][-1][key], 4)
                for key in ("step", "step_cpu", "first", "examples_per_second", "examples_per_cpu_second")
            }
            print(f"round {number + 1}: {who} {shown}", file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


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
    """An environment with LLaMA-Factory in it, made on the first call; the path of its Python."""
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
    """Refuse what does not do the same: other parameters, or other losses at any step."""
    for ours, theirs in zip(rows[one], rows[other], strict=True):
        if ours["names"] != theirs["names"]:
            raise SystemExit(f"{one} and {other} do not train the same parameters.")
        for number, (left, right) in enumerate(zip(ours["losses"], theirs["losses"], strict=True), 1):
            if abs(left - right) > SAME_LOSS * abs(right):
                raise SystemExit(f"The losses differ at step {number}: {one} {left:.6f}, {other} {right:.6f}.")


def near(rows: dict[str, list[Row]], one: str, other: str) -> None:
    """Refuse a contender that learns something else: its mean loss over the run is another one's."""
    left, right = (statistics.fmean(statistics.fmean(row["losses"]) for row in rows[who]) for who in (one, other))
    if abs(left - right) > NEAR_LOSS * right:
        raise SystemExit(f"{one} and {other} do not learn the same: mean losses {left:.4f} and {right:.4f}.")


def normalized(rows: dict[str, list[Row]], who: str, loop: str) -> list[Row]:
    """Each row's rate over that of the bare loop of its round."""
    pairs = zip(rows[who], rows[loop], strict=True)
    return [{key: row[key] / other[key] for key in RATE} for row, other in pairs]


def print_head(options: argparse.Namespace) -> None:
    names = ("torch", "transformers", "peft", "trl")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    load = " ".join(f"{item:.1f}" for item in os.getloadavg())
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, load {load}, {versions}")
    print(f"{options.rounds} rounds of {options.steps} steps\n")
    print("| what | by the clock | by its own processor time | goal |\n|---|---|---|---|")


def print_ratio(
    what: str, rows: dict[str, list[Row]], one: str, other: str, keys: tuple[str, ...], goal: str
) -> None:
    """A row of the table: the ratio of medians and its interval, by the clock and by processor time."""
    cells = []
    for key in keys:
        pairs = [(a[key], b[key]) for a, b in zip(rows[one], rows[other], strict=True)]
        low, high = interval(pairs)
        cells.append(f"{ratio(pairs):.2f} ({low:.2f}–{high:.2f})")
    print(f"| {what} | {' | '.join(cells)}{' |' * (3 - len(cells))} {goal} |", flush=True)


def ratio(pairs: list[tuple[float, float]]) -> float:
    """Of the medians."""
    return statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)


def interval(pairs: list[tuple[float, float]], draws: int = 2000) -> tuple[float, float]:
    """95 % of the ratios of medians, of resampled rounds."""
    dice = random.Random(0)
    found = sorted(ratio(dice.choices(pairs, k=len(pairs))) for _ in range(draws))
    return found[int(draws * 0.025)], found[int(draws * 0.975)]


if __name__ == "__main__":
    sys.exit(main())
