"""The reference job on a GPU: ours against bare TRL and Unsloth, each relative to the hardware's limit.

python benchmarks/gpu.py                     a 14B model of Phi-3-medium's shape, in both layouts; under ten minutes
python benchmarks/gpu.py --unsloth PYTHON    with Unsloth, in a separate environment: it needs older versions
python benchmarks/gpu.py --tiny              with a model of 0.1 M parameters, as a smoke test on a CPU
Random weights, quantized once and saved; no network. Every contender runs in its own process: 5 warmup steps and 20
timed ones, on full and on ragged rows. Measurements for the goals come first; those that do not fit into the time are
skipped and marked. Prints Markdown, and writes everything to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONTENDERS = ROOT / "benchmarks" / "gpu_contenders.py"
SECONDS = 560
"""Time limit of the whole benchmark."""
STARTED = time.monotonic()
OURS, FLAGS, DEFAULTS, UNSLOTH, PLAIN = "ours", "TRL, our flags", "TRL defaults", "Unsloth", "ours, not compiled"
AGAIN = "ours, again"
FIRST, LATER = (OURS, FLAGS, DEFAULTS), (AGAIN, UNSLOTH, PLAIN)
"""Contenders to run first on every layout, and those after that: time may run out for the latter."""
Task = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--layouts", nargs="+", default=["phi3", "llama"], choices=["phi3", "llama"])
    parser.add_argument("--unsloth", metavar="PYTHON", help="the interpreter of an environment that has Unsloth")
    parser.add_argument("--folder", type=Path, help="where to keep the models (default: a temporary folder)")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    size = "tiny" if options.tiny else "14b"
    job: Task = {"size": size, "modes": ["full", "ragged"], "micro": 4, "accumulation": 2, "length": 512}
    if options.tiny:
        job |= {"micro": 2, "length": 32}
    found: Task = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "job": job, "layouts": {}}
    print(f"{found['date']}, {found['machine']}\n")
    with tempfile.TemporaryDirectory() as temporary, Runner(STARTED + SECONDS) as runner:
        tasks = {
            layout: job | {"layout": layout, "model": f"{layout}-{size}", "folder": str(options.folder or temporary)}
            for layout in options.layouts
        }
        for contenders in (FIRST, LATER):
            for layout, task in tasks.items():
                measured = found["layouts"].setdefault(layout, {})
                for who in compare(task, contenders, measured, runner, options.unsloth):
                    print(f"{layout}, {who}: {json.dumps(measured[who])}", file=sys.stderr, flush=True)
                    options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    for layout, measured in found["layouts"].items():
        print_layout(layout, measured)


def compare(
    task: Task, contenders: tuple[str, ...], found: Task, runner: Runner, unsloth: str | None
) -> Iterator[str]:
    """Add the measurements of these contenders on one layout to `found`, and yield each one's name.

    The plan and the ceilings are measured first.
    """
    if "plan" not in found:
        found["plan"] = runner.run(task | {"who": "prepare"})
        if "problem" in found["plan"]:
            raise SystemExit(f"The model could not be made: {found['plan']['problem']}")
        found["ceilings"] = runner.run(task | {"who": "ceilings", "performance": found["plan"]["performance"]})
    performance = found["plan"]["performance"]
    for who in contenders:
        if who == UNSLOTH:
            own = task | {"who": "unsloth", "performance": performance}
            found[who] = runner.run(own, unsloth) if unsloth else {"problem": "not requested (--unsloth)"}
        elif who == FLAGS:
            found[who] = runner.run(task | {"who": "trl", "performance": performance})
        elif who == DEFAULTS:
            found[who] = runner.run(task | {"who": "trl"})
        elif who in (OURS, AGAIN):
            found[who] = runner.run(task | {"who": "ours"})
        elif performance["torch_compile"]:
            found[who] = runner.run(task | {"who": "ours", "set": {"torch_compile": "off"}})
        else:
            continue
        yield who


class Runner:
    """Runs tasks in fresh processes until the deadline. The next process does its imports while one is working."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._spare: subprocess.Popen[str] | None = None

    def __enter__(self) -> Runner:
        self._spare = self._start(sys.executable, "--warm")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._spare is not None
        self._kill(self._spare)

    def run(self, task: Task, python: str | None = None) -> Task:
        """The result of one process; `problem` says why it is incomplete. `python`: of another environment."""
        left = self._deadline - time.monotonic()
        if left < 20:
            return {"problem": "no time left"}
        if python:
            process = self._start(python)
        else:
            assert self._spare is not None
            process, self._spare = self._spare, self._start(sys.executable, "--warm")
        problem = ""
        try:
            printed, errors = process.communicate(json.dumps(task) + "\n", timeout=left)
        except subprocess.TimeoutExpired:
            problem = "no time left"
            printed, errors = self._kill(process)
        if process.returncode:
            print(errors[-3000:], file=sys.stderr)
            problem = problem or (errors.strip().splitlines() or ["no output"])[-1][:160]
        found = [line for line in printed.splitlines() if line.startswith("{")]
        return (json.loads(found[-1]) if found else {}) | ({"problem": problem} if problem else {})

    def _start(self, *command: str) -> subprocess.Popen[str]:
        python, *flags = command
        pipe = subprocess.PIPE
        environment = os.environ | ({} if "--tiny" not in sys.argv else {"OMP_NUM_THREADS": "1"})
        return subprocess.Popen(
            [python, str(CONTENDERS), *flags], cwd=ROOT, env=environment | {"HF_HUB_OFFLINE": "1"}, text=True,
            stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True,
        )  # fmt: skip

    def _kill(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """Kill a process and everything it has started, such as compilers; returns its output."""
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()


def machine() -> str:
    """The GPU and the relevant versions."""
    import torch

    names = ("torch", "triton", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "liger-kernel")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}, {', '.join(versions)}"


def print_layout(layout: str, found: Task) -> None:
    """Print Markdown: ceilings, contenders on full and ragged rows, goals."""
    why = [f"{name.replace('_', ' ')}: {reason}" for name, reason in found["plan"]["performance"]["why"].items()]
    print(f"## {layout}\n\nChosen settings: {'; '.join(why)}.\n")
    for who in (OURS, PLAIN):
        for note in found.get(who, {}).get("notes", []):
            print(f"{who}: {note}.\n")
    print_ceilings(found["ceilings"])
    floor = found["ceilings"].get("floor")
    for mode in ("full", "ragged"):
        head = ("step, s", "IQR (left out)", "non-pad tokens/s", "share of the floor", "peak", "after warmup")
        print(f"\n| {mode} rows | {' | '.join(head)} | predicted ÷ peak |\n|{'---|' * 8}")
        for who in FIRST + LATER:
            if who in found:
                print_contender(who, found[who], mode, floor)
    print()
    print_goals(found)
    print(flush=True)


def print_ceilings(measured: Task) -> None:
    if "problem" in measured:
        print(f"Ceilings: {measured['problem']}")
        return
    print("| ceiling | |\n|---|---|")
    for shape, rate in measured["gemm_tflops"].items():
        print(f"| bf16 matrix product {shape} | {rate:.1f} TFLOP/s |")
    print(f"| copy | {measured['copy_gb_s']:.0f} GB/s |")
    print(f"| NF4 dequantization | {measured['dequantize_gb_s']:.0f} GB/s written |")
    print(f"| attention, forward and backward | {measured['attention_tflops']:.1f} TFLOP/s |")
    for part, seconds in measured["parts"].items():
        print(f"| floor of a micro-batch: {part} | {seconds * 1e3:.1f} ms |")


def print_contender(who: str, row: Task, mode: str, floor: float | None) -> None:
    if mode not in row:
        print(f"| {who} | {row.get('problem', 'missing')} | | | | | | |")
        return
    one = row[mode]
    share = f"{floor / one['step']:.2f}" if floor and mode == "full" else ""
    peaks = [f"{one[key] / 1e9:.2f} GB" if one[key] else "no GPU" for key in ("peak", "later_peak")]
    off = f"{row['predicted'] / one['peak']:.3f}" if one["peak"] and "predicted" in row and mode == "full" else ""
    times = f"{one['step']:.3f} | {one['iqr']:.3f} ({one['outliers']}) | {one['tokens_per_second']:.0f}"
    print(f"| {who} | {times} | {share} | {' | '.join(peaks)} | {off} |")


def print_goals(found: Task) -> None:
    """The goals with the measurements; – if one is missing."""
    floor = found["ceilings"].get("floor")

    def value(who: str, mode: str, key: str) -> float | None:
        got = found.get(who, {}).get(mode, {}).get(key)
        return float(got) if got else None

    def speedup(who: str, mode: str) -> str:
        theirs = value(who, mode, "tokens_per_second")
        rates = [value(name, mode, "tokens_per_second") for name in (OURS, AGAIN)]
        return " and ".join(f"{rate / theirs:.3f}" for rate in rates if rate and theirs) or "–"

    print("| goal | full rows | ragged rows |\n|---|---|---|")
    for who, goal in ((FLAGS, 0.99), (DEFAULTS, 1.4), (UNSLOTH, 1.0)):
        print(f"| ours ÷ {who} ≥ {goal} | {speedup(who, 'full')} | {speedup(who, 'ragged')} |")
    step, peak = value(OURS, "full", "step"), value(OURS, "full", "peak")
    print(f"| share of the floor (no recomputation) ≥ 0.55 | {f'{floor / step:.3f}' if floor and step else '–'} | |")
    predicted = found.get(OURS, {}).get("predicted")
    print(f"| predicted ÷ measured peak 0.95–1.05 | {f'{predicted / peak:.3f}' if predicted and peak else '–'} | |")
    for name, key in (("first", "first_loss"), ("last", "last_loss")):
        left, right = value(OURS, "full", key), value(FLAGS, "full", key)
        text = f"{left:.5f} and {right:.5f}" if left and right else "–"
        print(f"| loss of the {name} step, ours and TRL with our flags | {text} | |")


if __name__ == "__main__":
    main()
