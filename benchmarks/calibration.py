"""How often a verdict is wrong: experiments without any difference, and with planted ones of known size.

python benchmarks/calibration.py train FILE [--experiments 200]    trains both names of every experiment, 3 seeds each
python benchmarks/calibration.py table FILE                        prints the table of docs/verdicts.md

Each experiment compares one selection under two names: LoRA with alpha 16, and with alpha 8 at twice the learning
rate. A verdict that calls them different is wrong. The runs are real: a tiny Phi-3, the demo's rows, 120 of them held
out. Training goes on where an earlier one of the same FILE ended.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from math import sqrt
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from trainer import demo  # noqa: E402
from trainer.config.schema import (  # noqa: E402
    AdapterConfig,
    DataConfig,
    ModelConfig,
    RunConfig,
    Tick,
    TrainingConfig,
)
from trainer.experiments.statistics import Results, all_pairs  # noqa: E402
from trainer.runs.row_losses import RowLosses  # noqa: E402

SEEDS, STEPS, ROWS = 3, 16, 240
HEAD = Tick("lm_head", "full")  # else a random model hardly learns
NAMES = ("alpha 16", "alpha 8, twice the rate")
PLANTED = (0.0025, 0.005, 0.01, 0.02, 0.05)
"""Shares of the loss."""


def configuration(name: str, seed: int) -> RunConfig:
    half = name == NAMES[1]
    training = TrainingConfig(
        learning_rate=1e-2 * (1 + half), full_learning_rate=1e-2, max_steps=STEPS, eval_steps=STEPS,
        per_device_train_batch_size=8, gradient_accumulation_steps=1, max_length=64, optim="adamw_torch",
        activation_checkpointing="off", samples=0, seed=seed,
    )  # fmt: skip
    return RunConfig(
        model=ModelConfig(name="phi3", quantization="none"),
        modules=(*map(Tick, ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")), HEAD),
        adapter=AdapterConfig(r=8, lora_alpha=8 if half else 16),
        data=DataConfig(source="file", path="train.jsonl", held_out="held.jsonl"),
        training=training,
    )


def prepare(folder: Path) -> None:
    """The model and the data that all runs share."""
    from tests.support import tiny
    from trainer.data.readers.uploads import keep_data

    tiny.save_model(folder / "models" / "phi3", "phi3")
    for source, name, rows in ((demo.TRAIN_FILE, "train", ROWS), (demo.HELDOUT_FILE, "held", 120)):
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)[:rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    names = {name: keep_data(folder / f"{name}.jsonl", folder / "data") for name in ("train", "held")}
    (folder / "names.json").write_text(json.dumps(names))


def run(task: tuple[str, str, int]) -> dict[str, Any]:
    """Train one run; returns its eval loss and that of each held-out row."""
    from trainer.runs import row_losses
    from trainer.training import loop

    place, name, seed = Path(task[0]), task[1], task[2]
    config, names = configuration(name, seed), json.loads((place / "names.json").read_text())
    config = replace(config, data=replace(config.data, path=names["train"], held_out=names["held"]))
    evals: list[float] = []

    def sink(type: str, **values: Any) -> None:
        if type == "eval":
            evals.append(values["eval_loss"])

    folder = Path(tempfile.mkdtemp(dir=place))
    try:
        loop.train(config, loop.RunPaths(folder, place / "models", place / "data"), sink, lambda: False)
        found = row_losses.read(folder)[row_losses.HELD_OUT]
    finally:
        shutil.rmtree(folder)
    assert found.after is not None
    rows = {"tokens": found.tokens.tolist(), "after": found.after.tolist()}
    return {"name": name, "seed": seed, "start": evals[0], "loss": evals[-1], **rows}


def train(path: Path, experiments: int) -> None:
    done = {(row["name"], row["seed"]) for row in read(path)} if path.exists() else set()
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place))
        tasks = [
            (place, name, seed)
            for seed in range(experiments * SEEDS)
            for name in NAMES
            if (name, seed) not in done
        ]  # fmt: skip
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool, path.open("a") as file:
            for number, result in enumerate(pool.map(run, tasks), start=1):
                file.write(json.dumps(result) + "\n")
                file.flush()
                print(f"\r{number} of {len(tasks)}", end="", file=sys.stderr)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def results(rows: list[dict[str, Any]], factor: float = 1.0) -> Results:
    """What a scenario of these runs reached; the first has seed 0, and all losses are multiplied by `factor`."""
    losses = {number: row["loss"] * factor for number, row in enumerate(rows)}
    known = {
        number: RowLosses("same", np.asarray(row["tokens"]), None, np.asarray(row["after"]) * factor, STEPS)
        for number, row in enumerate(rows)
    }
    return Results(losses, known)


def experiments(found: list[dict[str, Any]], name: str) -> list[list[dict[str, Any]]]:
    """The runs of a name, three seeds an experiment."""
    by_seed = {row["seed"]: row for row in found if row["name"] == name}
    return [
        [by_seed[first + number] for number in range(SEEDS)]
        for first in range(0, len(by_seed) - SEEDS + 1, SEEDS)
        if all(first + number in by_seed for number in range(SEEDS))
    ]


def table(path: Path) -> Iterator[str]:
    found = read(path)
    first, second = (experiments(found, name) for name in NAMES)
    losses = [row["loss"] for row in found]
    yield (
        f"{len(first)} experiments, {SEEDS} seeds, {len(found[0]['tokens'])} held-out rows; loss "
        f"{np.mean([row['start'] for row in found]):.3f} before training, {np.mean(losses):.3f} after (standard "
        f"deviation over the seeds {np.std([row['loss'] for row in found if row['name'] == NAMES[0]]):.4f})"
    )
    yield ""
    pairs = [runs for pair in zip(first, second, strict=True) for runs in zip(*pair, strict=True)]
    gaps = np.asarray([other["loss"] - one["loss"] for one, other in pairs])
    yield (
        f"Alpha halved and rate doubled: on average {gaps.mean():+.4f} ± {1.96 * gaps.std() / sqrt(len(gaps)):.4f}, "
        f"{gaps.mean() / np.mean(losses):.2%} of the loss"
    )
    yield ""
    yield "| experiments | one beats the other | equivalent (margin 1 %) | a difference at all |"
    yield "|---|---|---|---|"
    yield line("alpha halved, rate doubled", zip(first, second, strict=True))
    shifted = [*first[1:], *first[:1]]
    yield line("the same, other seeds", zip(first, shifted, strict=True))
    for share in PLANTED:
        yield line(f"the same, other seeds, planted: {100 * share:g} %", zip(first, shifted, strict=True), share)


def line(title: str, pairs: Any, share: float = 0.0) -> str:
    judged = [all_pairs({"a": results(one), "b": results(other, 1 + share)})[0] for one, other in pairs]
    beats = sum(pair.real and not pair.equivalent for pair in judged)
    figures = [beats, sum(pair.equivalent for pair in judged), sum(pair.real for pair in judged)]
    shares = [number / len(judged) for number in figures]
    errors = [1.96 * sqrt(part * (1 - part) / len(judged)) for part in shares]
    wrong = sum(pair.real and pair.better == "b" for pair in judged) if share else 0
    way = f", {wrong} the wrong way" if wrong else ""
    said = [f"{100 * part:.1f} % ± {100 * error:.1f}" for part, error in zip(shares, errors, strict=True)]
    return f"| {title} | {said[0]} | {said[1]} | {said[2]}{way} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("train", "table"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--experiments", type=int, default=200)
    options = parser.parse_args()
    if options.do == "train":
        train(options.file, options.experiments)
    else:
        print("\n".join(table(options.file)))


if __name__ == "__main__":
    main()
