"""How fast data are checked and tokenised: `python benchmarks/data.py [--rows N] [--rounds N]`.

Checks in rows a second; tokenising as a ratio to a bare `datasets.map` with the same tokenizer over the same texts,
one after the other in every round. The bare one renders and tokenises batches of 1,000, and does nothing else: no
masks, no reasons, no lengths. Memory of its own: what a process holds beside the files that it maps.
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
from functools import partial
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars, load_dataset
from transformers import AutoTokenizer

MEASURED = (5_000, 50_000)
"""Rows of the two files whose memory is compared."""
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainer import demo  # noqa: E402
from trainer.config import DataConfig  # noqa: E402
from trainer.data import Checked, check  # noqa: E402
from trainer.data.tokens import tokenise  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of each file (default: 100,000)")
    parser.add_argument("--rounds", type=int, default=3)
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
            row(f"check {name}, rows per second of one core", [options.rows / time for _, time, _ in timed], "")
        for name in files:
            timed = [ratio(Path(place), name, tokenizer) for _ in range(options.rounds)]
            row(f"tokenise {name} ÷ bare datasets.map, examples/s", [clock for clock, _ in timed], "≥ 0.9")
            row(f"tokenise {name} ÷ bare datasets.map, by processor time", [used for _, used in timed], "")
        sizes, peaks = zip(*(peak(Path(place), rows) for rows in MEASURED), strict=True)
        grown = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
        print(f"| memory that a larger file takes more ÷ its size more | {grown:.2f} | {sizes[1] >> 20} MiB | < 1 |")


def write_files(folder: Path, rows: int) -> list[str]:
    """Pairs, and conversations of two turns with a system message, from the demo's texts."""
    known = [json.loads(line) for line in demo.TRAIN_FILE.read_text(encoding="utf-8").splitlines()]
    with (folder / "pairs.jsonl").open("w") as pairs, (folder / "chats.jsonl").open("w") as chats:
        for number in range(rows):
            item = known[number % len(known)]
            asked, told = f"{item['instruction']} ({number})", item["response"]
            pairs.write(json.dumps({"instruction": asked, "response": told}) + "\n")
            turns = [
                ("system", "Be brief."),
                ("user", asked),
                ("assistant", told),
                ("user", "And?"),
                ("assistant", told),
            ]
            chats.write(json.dumps({"messages": [{"role": who, "content": text} for who, text in turns]}) + "\n")
    return ["pairs.jsonl", "chats.jsonl"]


def fresh_check(folder: Path, name: str) -> Checked:
    """A check that finds nothing in the cache."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        (Path(place) / name).hardlink_to(folder / name)
        return check(DataConfig(source="file", path=name), Path(place))


def ratio(folder: Path, name: str, tokenizer: Any) -> tuple[float, float]:
    """Seconds of the bare map over ours: by the clock, and of processor time."""
    data = DataConfig(source="file", path=name)
    checked = check(data, folder)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ours, ours_used, tokens = seconds(lambda: tokenise(checked, data, tokenizer, Path(place)))
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
    """What a person writes into `datasets.map` first."""
    chats = batch.get("messages") or [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
        for asked, told in zip(batch["instruction"], batch["response"], strict=True)
    ]
    return tokenizer(tokenizer.apply_chat_template(chats, tokenize=False), add_special_tokens=False)


def peak(folder: Path, rows: int) -> tuple[int, int]:
    """(bytes of a file, most bytes of its own that a process held while it checked and tokenised the file)."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write_files(Path(place), rows)
        command = [sys.executable, __file__, "--measure", place]
        held = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        return (Path(place) / "chats.jsonl").stat().st_size, int(held)


def measure(folder: Path) -> None:
    """Print the most anonymous memory (files that are mapped left out) while the file in `folder` is made ready."""
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            most[0] = max(most[0], *(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))

    data = DataConfig(source="file", path="chats.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    threading.Thread(target=watch, daemon=True).start()
    tokenise(check(data, folder), data, tokenizer, folder)
    done.set()
    print(most[0] * 1024)


def seconds(action: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds by the clock, seconds of this process's processor time, and the result."""
    began, used = time.perf_counter(), time.process_time()
    result = action()
    return time.perf_counter() - began, time.process_time() - used, result


def row(what: str, values: list[float], goal: str) -> None:
    digits = 0 if max(values) > 100 else 2
    shown = ", ".join(f"{value:,.{digits}f}" for value in values)
    print(f"| {what} | {statistics.median(values):,.{digits}f} | {shown} | {goal} |", flush=True)


if __name__ == "__main__":
    main()
