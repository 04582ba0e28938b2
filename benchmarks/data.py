"""Speed and memory of checking and tokenizing data: `python benchmarks/data.py [--rows N] [--rounds N] [--large
MIB]`.

Checking in rows per second; tokenizing as a ratio to a bare `datasets.map` with the same tokenizer and texts, one
after the other in each round. The bare one renders and tokenizes batches of 1,000 and does nothing else: no masks, no
reasons, no lengths. Memory: the peak of a process that prepares a whole file for training and writes its report, for
a file of MIB and one of a tenth; private memory, and including mapped files, which the system can reclaim.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars, load_dataset
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainer import demo  # noqa: E402
from trainer.config.schema import DataConfig, RunConfig  # noqa: E402
from trainer.data.checking import CheckedData, check  # noqa: E402
from trainer.data.preparation import prepare  # noqa: E402
from trainer.data.quality_report import report  # noqa: E402
from trainer.data.tokenization import tokenize  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="rows per file (default: 100,000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--large", type=int, default=64, help="size of the file for the memory measurement in MiB (default: 64)"
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    disable_progress_bars()
    if options.measure:
        measure(options.measure)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Print the table."""
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    with tempfile.TemporaryDirectory() as place:
        files = write_files(Path(place), options.rows)
        print("| what | median | all rounds | goal |\n|---|---|---|---|")
        for name in files:
            timed = [seconds(partial(fresh_check, Path(place), name)) for _ in range(options.rounds)]
            row(f"check {name}, rows/s", [options.rows / time for time, _, _ in timed], "≥ 50,000")
            row(f"check {name}, rows per CPU second", [options.rows / time for _, time, _ in timed], "")
        for name in files:
            ratios = [ratio(Path(place), name, tokenizer) for _ in range(options.rounds)]
            row(f"tokenize {name} ÷ bare datasets.map, examples/s", [wall for wall, _ in ratios], "≥ 0.9")
            row(f"tokenize {name} ÷ bare datasets.map, CPU time", [cpu for _, cpu in ratios], "")
    print("\n| file | rows | peak private memory | with mapped files | seconds |\n|---|---|---|---|---|")
    for size in (options.large / 10, options.large):
        print("|", " | ".join(memory(int(size * 2**20))), "|", flush=True)


def write_files(folder: Path, rows: int) -> list[str]:
    """Pairs, and conversations of two turns with a system message, from the demo's texts."""
    makers = {"pairs.jsonl": pair, "chats.jsonl": chat}
    for name, make in makers.items():
        with (folder / name).open("w") as file:
            file.writelines(json.dumps(make(number)) + "\n" for number in range(rows))
    return list(makers)


@cache
def demo_rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in demo.TRAIN_FILE.read_text(encoding="utf-8").splitlines()]


def pair(number: int) -> dict[str, Any]:
    item = demo_rows()[number % len(demo_rows())]
    return {"instruction": f"{item['instruction']} ({number})", "response": item["response"]}


def chat(number: int) -> dict[str, Any]:
    question, answer = pair(number).values()
    turns = [("system", "Be brief."), ("user", question), ("assistant", answer)]
    turns += [("user", "And?"), ("assistant", answer)]
    return {"messages": [{"role": who, "content": text} for who, text in turns]}


def fresh_check(folder: Path, name: str) -> CheckedData:
    """A check with an empty cache."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        (Path(place) / name).hardlink_to(folder / name)
        return check(DataConfig(source="file", path=name), Path(place))


def ratio(folder: Path, name: str, tokenizer: Any) -> tuple[float, float]:
    """Time of the bare map divided by ours: wall clock and CPU time."""
    data = DataConfig(source="file", path=name)
    checked = check(data, folder)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ours, ours_used, tokens = seconds(lambda: tokenize(checked, data, tokenizer, Path(place)))
        dataset = load_dataset("json", data_files=str(folder / name), split="train")
        bare, bare_used, mapped = seconds(
            lambda: dataset.map(
                lambda batch: bare_tokens(batch, tokenizer),
                batched=True, remove_columns=dataset.column_names, load_from_cache_file=False,
            )
        )  # fmt: skip
        assert tokens.dataset()[-1]["input_ids"] == mapped[-1]["input_ids"]
    return bare / ours, bare_used / ours_used


def bare_tokens(batch: dict[str, list[Any]], tokenizer: Any) -> Any:
    """What one would first write for `datasets.map`."""
    chats = batch.get("messages") or [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in zip(batch["instruction"], batch["response"], strict=True)
    ]
    return tokenizer(tokenizer.apply_chat_template(chats, tokenize=False), add_special_tokens=False)


def memory(size: int) -> list[str]:
    """A row of the memory table, for conversations in a file of `size` bytes."""
    with tempfile.TemporaryDirectory() as place:
        file, rows = Path(place) / "chats.jsonl", 0
        with file.open("w") as opened:
            while opened.tell() < size:
                opened.writelines(json.dumps(chat(number)) + "\n" for number in range(rows, rows + 1000))
                rows += 1000
        began = time.perf_counter()
        command = [sys.executable, __file__, "--measure", place]
        own, all_of_it = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
        took = time.perf_counter() - began
        held = (f"{int(kib) >> 10:,} MiB" for kib in (own, all_of_it))
        return [f"{file.stat().st_size >> 20:,} MiB", f"{rows:,}", *held, f"{took:,.0f}"]


def measure(folder: Path) -> None:
    """Print the peak KiB of private memory (RssAnon), and with mapped files (VmHWM), for preparing a file."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], status("RssAnon"))

    data = DataConfig(source="file", path="chats.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    threading.Thread(target=watch, daemon=True).start()
    report(RunConfig(data=data), tokenizer, folder)
    prepare(data, tokenizer, 512, 0, folder)
    done.set()
    print(peak[0], status("VmHWM"))


def status(name: str) -> int:
    """A value in KiB from /proc/self/status."""
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0])


def seconds(action: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall clock seconds, CPU seconds, and the result."""
    began, used = time.perf_counter(), time.process_time()
    result = action()
    return time.perf_counter() - began, time.process_time() - used, result


def row(what: str, values: list[float], goal: str) -> None:
    digits = 0 if max(values) > 100 else 2
    shown = ", ".join(f"{value:,.{digits}f}" for value in values)
    print(f"| {what} | {statistics.median(values):,.{digits}f} | {shown} | {goal} |", flush=True)


if __name__ == "__main__":
    main()
