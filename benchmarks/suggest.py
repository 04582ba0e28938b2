"""How good Suggest's picks are: what a race recommends, against every candidate trained whole at its best rate.

python benchmarks/suggest.py prepare FOLDER                         pre-trains two more small models (minutes)
python benchmarks/suggest.py truth FOLDER                           trains every candidate of every pair whole
python benchmarks/suggest.py races FOLDER [--seconds 30,90] [--repeats 3]   races, each with seeds of its own
python benchmarks/suggest.py table FOLDER                           prints the tables of docs/suggest.md

A pair is a model (the demo's Phi-3, a Llama with tied embeddings, a GPT-2) and data (the demo's rows, or the same
questions with their answers as JSON). A candidate is every arm that Suggest can race. Its loss is the mean of two
seeds at the best of at least three learning rates, over the whole run. The race uses other seeds. Nothing that is in
FOLDER already is trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from trainer import demo  # noqa: E402
from trainer.common import atomic  # noqa: E402
from trainer.config.schema import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig  # noqa: E402
from trainer.planning.scenarios import starting_ticks  # noqa: E402

MODELS, DATA = ("demo", "llama", "gpt2"), ("pirate", "json")
ROWS, HELD_OUT = 480, 240
PRETRAINING_STEPS, DOCUMENTS = 800, 12_000
TRUTH_SEEDS, RACE_SEED = (0, 1), 1000
MOST_RATES = 6
GOAL = 0.005
"""Regret that counts as right: a share of the best candidate's loss."""


def configuration(folder: Path, model: str, data: str) -> RunConfig:
    training = TrainingConfig(
        learning_rate=8e-3, per_device_train_batch_size=8, gradient_accumulation_steps=1, max_length=128,
        optim="adamw_torch", activation_checkpointing="off", samples=0, packing="group_by_length", seed=0,
    )  # fmt: skip
    names = json.loads((folder / "names.json").read_text())
    files = DataConfig(source="file", path=names[f"{data}-train"], held_out=names[f"{data}-held"])
    return RunConfig(
        model=ModelConfig(name=model, quantization="none"), adapter=AdapterConfig(r=8, lora_alpha=8), data=files,
        training=training,
    )  # fmt: skip


def prepare(folder: Path) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    from tools.demo import pretrain

    write_data(folder)
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
           "pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}  # fmt: skip
    llama = LlamaConfig(
        **ids, hidden_size=128, intermediate_size=384, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    gpt2 = GPT2Config(**ids, n_embd=128, n_layer=4, n_head=8, n_positions=1024, resid_pdrop=0, embd_pdrop=0,
                      attn_pdrop=0)  # fmt: skip
    texts = pretrain.corpus(Random(7), DOCUMENTS)
    recipe = pretrain.Recipe(steps=PRETRAINING_STEPS)
    batches = pretrain.batches(tokenizer, texts, recipe)
    for name, kind, config in (("llama", LlamaForCausalLM, llama), ("gpt2", GPT2LMHeadModel, gpt2)):
        target = folder / "models" / name
        if target.exists():
            continue
        model: Any = kind(config)
        seconds = pretrain.train(model, batches, recipe)
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        loss = pretrain.mean_loss(model, batches[:40])
        print(f"{name}: {model.num_parameters():,} parameters, {seconds:.0f} s, loss {loss:.3f}")


def write_data(folder: Path) -> None:
    from trainer.data.readers.uploads import keep_data

    (folder / "models").mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    names = {}
    for data in DATA:
        for part, source, count in (("train", demo.TRAIN_FILE, ROWS), ("held", demo.HELDOUT_FILE, HELD_OUT)):
            rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()[:count]]
            if data == "json":
                rows = [row | {"response": json.dumps(as_record(row["response"]))} for row in rows]
            path = folder / f"{data}-{part}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            names[f"{data}-{part}"] = keep_data(path, folder / "data")
    (folder / "names.json").write_text(json.dumps(names))


def as_record(answer: str) -> dict[str, Any]:
    """An answer in another form: its words in reverse order, and how many there are."""
    words = answer.split()
    return {"count": len(words), "answer": " ".join(reversed(words))}


def pairs(folder: Path) -> Iterator[tuple[str, RunConfig]]:
    """Those whose model is there."""
    for model in MODELS:
        for data in DATA if model == "demo" or (folder / "models" / model).exists() else ():
            yield f"{model}, {data}", configuration(folder, model, data)


def opened(folder: Path, config: RunConfig) -> Any:
    """A bench for one pair."""
    import trainer.models.bitsandbytes_import
    from trainer.experiments.race.opening import open_race
    from trainer.models.discovery.discover import discover
    from trainer.models.locations import load_config
    from trainer.training.loop import RunPaths

    assert trainer.models.bitsandbytes_import
    module_map = discover(load_config(config.model, folder / "models"), config.model.name)
    config = replace(config, modules=starting_ticks(module_map))
    paths = RunPaths(folder / "runs" / "races", folder / "models", folder / "data")
    return open_race(config, paths, (), lambda *_, **__: None, lambda: False)


def truth(folder: Path) -> None:
    for name, config in pairs(folder):
        path = folder / f"truth {name}.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        race = opened(folder, config)
        for arm in race.arms:
            if arm.runs and arm.scenario.key not in found:
                found[arm.scenario.key] = row = measured(race, arm)
                atomic.write_json(path, found)
                print(name, row, flush=True)


def measured(race: Any, arm: Any) -> dict[str, Any]:
    """One candidate at its best rate: as many rates as it takes for the best one not to be at the edge."""
    from trainer.experiments.race.race import short_run

    def loss(factor: float, seed: int) -> float:
        config = short_run(arm.config, factor, race.shape.most_steps, seed)
        return float(race.bench.train(config, race.shape.held_out).loss)

    began = time.monotonic()
    losses = {factor: loss(factor, TRUTH_SEEDS[0]) for factor in (0.5, 1.0, 2.0)}
    best = min(losses, key=lambda factor: losses[factor])
    while best in (min(losses), max(losses)) and len(losses) < MOST_RATES:
        factor = best * 2 if best == max(losses) else best / 2
        losses[factor] = loss(factor, TRUTH_SEEDS[0])
        best = min(losses, key=lambda factor: losses[factor])
    mean = fmean([losses[best], *(loss(best, seed) for seed in TRUTH_SEEDS[1:])])
    seconds = (time.monotonic() - began) / (len(losses) + len(TRUTH_SEEDS) - 1)
    return {"title": arm.scenario.title, "loss": mean, "factor": best, "seconds": seconds, "rates": len(losses)}


def races(folder: Path, budgets: list[float], repeats: int) -> None:
    for name, config in pairs(folder):
        path = folder / f"races {name}.json"
        found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        known = {(row["seconds"], row["repeat"]) for row in found}
        wanted = [(budget, repeat) for repeat in range(repeats) for budget in budgets]
        for budget, repeat in (item for item in wanted if item not in known):
            seeded = replace(config, training=replace(config.training, seed=RACE_SEED * (1 + repeat)))
            found.append(row := raced(opened(folder, seeded), seeded, budget) | {"repeat": repeat})
            atomic.write_json(path, found)
            print(name, {key: row[key] for key in ("seconds", "repeat", "sentence", "at_rate")}, flush=True)


def raced(opened_race: Any, config: RunConfig, budget: float) -> dict[str, Any]:
    """What one race answers, and the loss of a whole run at the learning rate that it recommends."""
    from trainer.config.validation import from_json
    from trainer.experiments.race.answer import to_json
    from trainer.experiments.race.arms import obstacle
    from trainer.experiments.race.race import LEFT_OUT, WAITING, Entry, Race, short_run

    shape, began = opened_race.shape, time.monotonic()
    notes = [obstacle(arm) for arm in opened_race.arms]
    states = [LEFT_OUT if note else WAITING for note in notes]
    entries = [Entry(*parts) for parts in zip(opened_race.arms, states, notes, strict=True)]
    race = Race(entries, shape, opened_race.bench.train, lambda: began + budget - time.monotonic(), lambda: None)
    race.run()
    took = time.monotonic() - began
    state = to_json(race, config, opened_race.run_steps)
    answer = state["answer"]
    whole = short_run(from_json(answer["config"]), 1.0, shape.most_steps)
    order = [arm["key"] for arm in state["arms"] if arm["place"]]
    at_rate = float(opened_race.bench.train(whole, shape.held_out).loss)
    kept = {key: answer[key] for key in ("key", "shown", "sentence", "rate")}
    return kept | {"seconds": budget, "took": took, "at_rate": at_rate, "rungs": state["rungs"], "order": order}


def table(folder: Path) -> None:
    """Markdown: candidates by pair, and regrets by budget."""
    regrets: dict[float, list[float]] = {}
    usual: list[float] = []
    any_of: list[float] = []
    print("| pair | candidates | best | all linear | mean of all |\n|---|---|---|---|---|")
    known = {name: json.loads(path.read_text()) for name, _ in pairs(folder)
             if (path := folder / f"truth {name}.json").exists()}  # fmt: skip
    for name, found in known.items():
        losses = {key: row["loss"] for key, row in found.items()}
        best = min(losses, key=lambda key: losses[key])
        gaps = {key: loss / losses[best] - 1 for key, loss in losses.items()}
        usual.append(gaps["linear"])
        any_of += gaps.values()
        print(f"| {name} | {len(gaps)} | {found[best]['title']}, {losses[best]:.4f} | +{gaps['linear']:.2%} | "
              f"+{fmean(gaps.values()):.2%} |")  # fmt: skip
        path = folder / f"races {name}.json"
        for row in json.loads(path.read_text()) if path.exists() else []:
            regrets.setdefault(row["seconds"], []).append(gaps[row["key"]])
    seconds = median(row["seconds"] for found in known.values() for row in found.values())
    print(f"\nA whole run takes {seconds:.1f} s (median).\n")
    print(f"| picked by | picks | within {GOAL:.1%} | median regret | 90th percentile | worst |\n" + "|---" * 6 + "|")
    rows = {f"a race of {budget:g} s": values for budget, values in sorted(regrets.items())}
    for what, values in (rows | {"always all linear": usual, "any candidate": any_of}).items():
        ordered = sorted(values)
        tenth = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
        right = sum(value <= GOAL for value in values) / len(values)
        print(f"| {what} | {len(values)} | {right:.0%} | {median(values):.2%} | {tenth:.2%} | {max(values):.2%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["prepare", "truth", "races", "table"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", default="30,90")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ["LAB_DEVICE_LOCKS"] = tempfile.mkdtemp()
    if options.part == "races":
        races(options.folder, [float(part) for part in options.seconds.split(",")], options.repeats)
    else:
        {"prepare": prepare, "truth": truth, "table": table}[options.part](options.folder)


if __name__ == "__main__":
    main()
