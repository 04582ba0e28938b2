"""How fast data are checked and tokenised: `python benchmarks/data.py [--rows N] [--rounds N]`.

Checks in rows a second; tokenising as a ratio to a bare `datasets.map` with the same tokenizer over the same texts,
one after the other in every round. The bare one renders and tokenises batches of 1,000, and does nothing else: no
masks, no reasons, no lengths. Memory as what the process takes more while it checks and tokenises.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars, load_dataset
from transformers import AutoTokenizer

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
    options = parser.parse_args()
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    with tempfile.TemporaryDirectory() as place:
        files = write_files(Path(place), options.rows)
        print("| what | median | all rounds | goal |\n|---|---|---|---|")
        grown = memory(Path(place), "pairs.jsonl", tokenizer)
        size = (Path(place) / "pairs.jsonl").stat().st_size
        print(
            f"| memory grown by check and tokenise ÷ size of the file | {grown / size:.2f} | {size >> 20} MiB | < 1 |"
        )
        for name in files:
            timed = [seconds(partial(fresh_check, Path(place), name)) for _ in range(options.rounds)]
            row(f"check {name}, rows/s", [options.rows / time for time, _, _ in timed], "≥ 50,000")
            row(f"check {name}, rows per second of one core", [options.rows / time for _, time, _ in timed], "")
        for name in files:
            ratios = [ratio(Path(place), name, tokenizer) for _ in range(options.rounds)]
            row(f"tokenise {name} ÷ bare datasets.map, examples/s", ratios, "≥ 0.9")


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


def ratio(folder: Path, name: str, tokenizer: Any) -> float:
    """Seconds of the bare map over ours."""
    data = DataConfig(source="file", path=name)
    checked = check(data, folder)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ours, _, tokens = seconds(lambda: tokenise(checked, data, tokenizer, Path(place)))
        dataset = load_dataset("json", data_files=str(folder / name), split="train")
        bare, _, mapped = seconds(
            lambda: dataset.map(
                lambda batch: bare_tokens(batch, tokenizer),
                batched=True, remove_columns=dataset.column_names, load_from_cache_file=False,
            )
        )  # fmt: skip
        assert tokens.dataset()[-1]["input_ids"] == mapped[-1]["input_ids"]
    return bare / ours


def bare_tokens(batch: dict[str, list[Any]], tokenizer: Any) -> Any:
    """What a person writes into `datasets.map` first."""
    chats = batch.get("messages") or [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
        for asked, told in zip(batch["instruction"], batch["response"], strict=True)
    ]
    return tokenizer(tokenizer.apply_chat_template(chats, tokenize=False), add_special_tokens=False)


def memory(folder: Path, name: str, tokenizer: Any) -> int:
    """Bytes by which the process's peak grew: rows and tokens are written, not held."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory(dir=folder) as place:
        (Path(place) / name).hardlink_to(folder / name)
        data = DataConfig(source="file", path=name)
        tokenise(check(data, Path(place)), data, tokenizer, Path(place))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


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
