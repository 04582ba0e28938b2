"""The reference job on a GPU: ours beside bare TRL and Unsloth, each as a share of what the chip could do.

python benchmarks/gpu.py           a 14B model of Phi-3-medium's shape, in both layouts; under ten minutes, no network
python benchmarks/gpu.py --tiny    the same with a model of 0.1 M parameters, to see that all of it runs on a CPU
Random weights, quantised once and saved; every contender is a process of its own: 5 steps to warm up, 20 timed, on
full rows and on ragged ones. What does not fit into the time is left out, and said to be. Markdown goes to the
output, everything to a JSON file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONTENDERS = ROOT / "benchmarks" / "gpu_contenders.py"
SECONDS = 570
"""All of it ends within this time."""
ORDER = ("ours", "TRL, our flags", "TRL defaults", "Unsloth", "ours, not compiled")
WAYS = {"ours": "ours", "ours, not compiled": "ours", "TRL, our flags": "trl", "TRL defaults": "trl"}
Task = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--layouts", nargs="+", default=["phi3", "llama"], choices=["phi3", "llama"])
    parser.add_argument("--folder", type=Path, help="where to keep the models (default: a temporary folder)")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    deadline = time.monotonic() + SECONDS
    size = "tiny" if options.tiny else "14b"
    job: Task = {"size": size, "modes": ["full", "ragged"], "micro": 8, "accumulation": 2, "length": 512}
    if options.tiny:
        job |= {"micro": 2, "length": 32}
    found: Task = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "job": job, "layouts": {}}
    print(f"{found['date']}, {found['machine']}\n")
    with tempfile.TemporaryDirectory() as temporary:
        for layout in options.layouts:
            task = job | {"layout": layout, "model": f"{layout}-{size}", "folder": str(options.folder or temporary)}
            found["layouts"][layout] = compare(task, deadline)
            options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
            print_layout(layout, found["layouts"][layout])


def compare(task: Task, deadline: float) -> Task:
    """Ceilings and every contender on one layout."""
    plan = run(task | {"who": "prepare"}, deadline)
    if "problem" in plan:
        raise SystemExit(f"The model could not be made: {plan['problem']}")
    found = {"plan": plan, "ceilings": run(task | {"who": "ceilings"}, deadline)}
    for who in ORDER:
        own: Task = {"who": WAYS.get(who, "unsloth")}
        if who in ("TRL, our flags", "Unsloth"):
            own["levers"] = plan["levers"]
        if who == "ours, not compiled":
            if not plan["levers"]["torch_compile"]:
                continue
            own["set"] = {"torch_compile": "off"}
        if who == "Unsloth" and importlib.util.find_spec("unsloth") is None:
            found[who] = {"problem": "not installed"}
            continue
        found[who] = run(task | own, deadline)
        print(f"{who}: {json.dumps(found[who])}", file=sys.stderr, flush=True)
    return found


def run(task: Task, deadline: float) -> Task:
    """What one process found; `problem` says why it found nothing."""
    left = deadline - time.monotonic()
    if left < 20:
        return {"problem": "no time left"}
    environment = os.environ | ({} if task["size"] != "tiny" else {"OMP_NUM_THREADS": "1"})
    try:
        done = subprocess.run(
            [sys.executable, str(CONTENDERS), json.dumps(task)], cwd=ROOT, env=environment, capture_output=True,
            text=True, check=False, timeout=left,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"problem": "no time left"}
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
        return {"problem": (done.stderr.strip().splitlines() or ["no word"])[-1][:160]}
    return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def machine() -> str:
    """The GPU and the versions that matter."""
    import torch

    names = ("torch", "transformers", "peft", "trl", "bitsandbytes", "liger-kernel", "unsloth")
    known = []
    for name in names:
        try:
            known.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}, {', '.join(known)}"


def print_layout(layout: str, found: Task) -> None:
    """Markdown: ceilings, contenders on full and on ragged rows, the goals."""
    print(f"## {layout}\n\n{' · '.join(found['plan']['levers']['why'].values())}\n")
    print_ceilings(found["ceilings"])
    floor = found["ceilings"].get("floor")
    for mode in ("full", "ragged"):
        print(f"\n| {mode} rows | step, s | IQR | non-pad tokens/s | share of the floor | peak | predicted ÷ peak |")
        print("|---|---|---|---|---|---|---|")
        for who in ORDER:
            if who in found:
                print_contender(who, found[who], mode, floor)
    print()
    print_goals(found)
    print(flush=True)


def print_ceilings(made: Task) -> None:
    if "problem" in made:
        print(f"Ceilings: {made['problem']}")
        return
    print("| ceiling | |\n|---|---|")
    for shape, rate in made["gemm_tflops"].items():
        print(f"| bf16 product {shape} | {rate:.1f} TFLOP/s |")
    print(f"| copy | {made['copy_gb_s']:.0f} GB/s |")
    print(f"| NF4 dequantisation | {made['dequantise_gb_s']:.0f} GB/s written |")
    print(f"| attention, forward and backward | {made['attention_tflops']:.1f} TFLOP/s |")
    for part, seconds in made["parts"].items():
        print(f"| floor of a micro-batch: {part} | {seconds * 1e3:.1f} ms |")


def print_contender(who: str, row: Task, mode: str, floor: float | None) -> None:
    if "problem" in row:
        print(f"| {who} | {row['problem']} | | | | | |")
        return
    one = row[mode]
    share = f"{floor / one['step']:.2f}" if floor and mode == "full" else ""
    peak = f"{one['peak'] / 1e9:.2f} GB" if one["peak"] else "no GPU"
    off = f"{row['predicted'] / one['peak']:.3f}" if one["peak"] and "predicted" in row else ""
    times = f"{one['step']:.3f} | {one['iqr']:.3f} | {one['tokens_per_second']:.0f}"
    print(f"| {who} | {times} | {share} | {peak} | {off} |")


def print_goals(found: Task) -> None:
    """The goals, each with what was measured; blank where a side is missing."""
    floor = found["ceilings"].get("floor")

    def value(who: str, mode: str, key: str) -> float | None:
        got = found.get(who, {}).get(mode, {}).get(key)
        return float(got) if got else None

    def over(who: str, mode: str) -> str:
        ours, theirs = (value(name, mode, "tokens_per_second") for name in ("ours", who))
        return f"{ours / theirs:.3f}" if ours and theirs else "–"

    print("| goal | full rows | ragged rows |\n|---|---|---|")
    for who, goal in (("TRL, our flags", 0.99), ("TRL defaults", 1.4), ("Unsloth", 1.0)):
        print(f"| ours ÷ {who} ≥ {goal} | {over(who, 'full')} | {over(who, 'ragged')} |")
    step = value("ours", "full", "step")
    print(f"| share of the no-recompute floor ≥ 0.55 | {f'{floor / step:.3f}' if floor and step else '–'} | |")
    for name, key in (("first", "first_loss"), ("last", "last_loss")):
        left, right = value("ours", "full", key), value("TRL, our flags", "full", key)
        text = f"{left:.5f} and {right:.5f}" if left and right else "–"
        print(f"| loss of the {name} step, ours and TRL with our flags | {text} | |")


if __name__ == "__main__":
    main()
