"""Packed and unpacked, a run learns the same; held-out figures are exact in both."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, MambaConfig

from tests.support.lab import small_config
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick
from trainer.data import packing
from trainer.data.preparation import prepare
from trainer.data.readers.uploads import keep_data
from trainer.planning import schedule
from trainer.runs import row_losses
from trainer.training import loop
from trainer.training.collation import Collator
from trainer.training.preflight import packing_is_exact

Events = list[dict[str, Any]]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Examples of very different lengths, some of them cut."""
    rows, random = tmp_path / "uneven.jsonl", Random(0)
    words = ("cat", "dog", "hill", "mat", "ran", "sat")
    with rows.open("w") as file:
        for number in range(64):
            answer = " ".join(random.choice(words) for _ in range(random.choice((2, 3, 5, 30))))
            file.write(json.dumps({"instruction": f"Where is {number}?", "response": answer}) + "\n")
    config = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=5)
    return replace(
        config,
        adapter=AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.0),
        data=replace(config.data, path=keep_data(rows, tmp_path / "data")),
    )


@pytest.fixture
def train(tmp_path: Path, models_dir: Path) -> Callable[[RunConfig], Events]:
    def run(config: RunConfig) -> Events:
        events: Events = []
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        places = loop.RunPaths(folder, models_dir, tmp_path / "data")
        loop.train(config, places, lambda type, **values: events.append({"type": type, **values}), lambda: False)
        return events

    return run


def packed(config: RunConfig, way: Any) -> RunConfig:
    return replace(config, training=replace(config.training, packing=way))


def figures(events: Events) -> tuple[list[float], list[float], list[float], list[float]]:
    steps = [event for event in events if event["type"] == "metrics"]
    evals = [event for event in events if event["type"] == "eval"]
    return (
        [event["loss"] for event in steps],
        [event["tokens"] for event in steps],
        [event["eval_loss"] for event in evals],
        [event["eval_accuracy"] for event in evals],
    )


@pytest.mark.parametrize("kind", ["phi3", "moe"])
def test_packed_and_unpacked_runs_have_the_same_figures(kind: str, config: RunConfig, train: Any) -> None:
    ticks = (Tick("q_proj"), Tick("o_proj"))
    config = replace(config, model=ModelConfig(name=kind, quantization="none"), modules=ticks)
    plain, tight = train(packed(config, "off")), train(packed(config, "bfd"))
    assert any("packed" in event.get("text", "") for event in tight)
    assert not any("packed" in event.get("text", "") for event in plain)
    for left, right in zip(figures(plain), figures(tight), strict=True):
        assert left == pytest.approx(right, rel=2e-5)
    assert figures(tight)[0][0] != figures(tight)[0][-1]


@pytest.mark.parametrize("way", ["bfd", "group_by_length"])
def test_however_batches_are_filled_a_run_takes_the_steps_that_were_planned(
    way: str, config: RunConfig, train: Any
) -> None:
    training = replace(
        config.training, max_steps=0, num_train_epochs=1.5, per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
    )  # fmt: skip
    config = replace(config, training=training)
    events = train(packed(config, way))
    started = next(event for event in events if event["type"] == "state")
    assert started["steps"] == schedule.total_steps(training, started["examples"]) > 5
    assert [event["step"] for event in events if event["type"] == "metrics"][-1] == started["steps"]


def test_the_held_out_part_is_measured_at_the_end(config: RunConfig, train: Any) -> None:
    config = replace(config, training=replace(config.training, eval_steps=3))
    evals = [event["step"] for event in train(config) if event["type"] == "eval"]
    assert evals == [0, 3, 5]


def test_packing_is_what_auto_chooses_where_it_pays(config: RunConfig, train: Any, tmp_path: Path) -> None:
    assert any("Batches are packed" in event.get("text", "") for event in train(config))
    even = small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=2)
    assert not any("Batches" in event.get("text", "") for event in train(even))


def test_a_model_that_mixes_examples_up_is_grouped_by_length(config: RunConfig, train: Any, models_dir: Path) -> None:
    folder = models_dir / "bloom"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(
        BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4, eos_token_id=2, pad_token_id=0)
    ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(models_dir / "phi3").save_pretrained(folder)
    events = train(
        replace(config, model=ModelConfig(name="bloom", quantization="none"), modules=(Tick("query_key_value"),))
    )
    texts = [event.get("text", "") for event in events]
    assert any("grouped by length" in text for text in texts)
    mamba = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2))
    assert not packing_is_exact(mamba, contextlib.nullcontext)


@pytest.mark.parametrize("way", ["bfd", "group_by_length"])
def test_a_resumed_run_has_the_same_batches(way: str, config: RunConfig, models_dir: Path, tmp_path: Path) -> None:
    config = packed(replace(config, training=replace(config.training, max_steps=20)), way)  # into a second epoch
    found: dict[str, dict[int, Any]] = {"whole": {}, "parts": {}}

    def train(name: str, stop_at: int) -> None:
        def sink(type: str, **values: Any) -> None:
            if type == "metrics":
                found[name][values["step"]] = (values["loss"], values["grad_norm"], values["tokens"])

        (tmp_path / name).mkdir(exist_ok=True)
        places = loop.RunPaths(tmp_path / name, models_dir, tmp_path / "data")
        loop.train(config, places, sink, lambda: len(found[name]) + 1 >= stop_at)

    train("whole", 99)
    for stop_at in (3, 17, 99):
        train("parts", stop_at)
    assert found["parts"] == found["whole"]


def test_held_out_figures_are_those_of_all_tokens(
    config: RunConfig, train: Any, models_dir: Path, tmp_path: Path
) -> None:
    """Loss and accuracy are means over tokens, whatever the batches: as one computes them by hand."""
    tokenizer = AutoTokenizer.from_pretrained(models_dir / "phi3")
    data = prepare(config.data, tokenizer, config.training.max_length, config.training.seed, tmp_path / "data")
    model = AutoModelForCausalLM.from_pretrained(models_dir / "phi3").eval()
    assert data.eval is not None
    loss = right = count = 0.0
    each = []
    for example in data.eval:
        ids = torch.tensor(example["input_ids"][: config.training.max_length])[None]
        counts = torch.tensor(example["counts"][: config.training.max_length])[1:]
        logits = model(input_ids=ids).logits[0, :-1][counts]
        wanted = ids[0, 1:][counts]
        each.append(float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").detach()))
        loss += each[-1]
        right += float((logits.argmax(-1) == wanted).sum())
        count += len(wanted)
    for way in ("off", "bfd"):
        evals = [event for event in train(packed(config, way)) if event["type"] == "eval"]
        first, last = evals[0], evals[-1]
        assert first["eval_loss"] == pytest.approx(loss / count, rel=1e-5)
        assert first["perplexity"] == pytest.approx(math.exp(loss / count), rel=1e-5)
        assert first["eval_accuracy"] == pytest.approx(right / count, abs=1e-9)
        rows = row_losses.read(max(tmp_path.glob("run-*"), key=lambda path: path.stat().st_ctime))[
            row_losses.HELD_OUT
        ]
        assert rows.before is not None and rows.after is not None
        assert rows.before.tolist() == pytest.approx(each, rel=1e-5)
        assert rows.after.sum() / rows.tokens.sum() == pytest.approx(last["eval_loss"], rel=1e-5)
        assert (rows.tokens.sum(), rows.step) == (count, 5)


def test_rows_are_few_full_and_never_too_long() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        size, longest = int(random.integers(1, 65)), int(random.integers(8, 513))
        lengths = random.integers(1, longest + 1, size).tolist()
        rows = packing.rows(lengths, longest)
        assert sorted(place for row in rows for place in row) == list(range(size))
        assert max(sum(lengths[place] for place in row) for row in rows) <= longest
        assert len(rows) <= size
        assert len(rows) <= 1.3 * sum(lengths) / longest + 2, "best fit decreasing is near the least"


@pytest.mark.parametrize("packed", [True, False])
def test_on_a_gpu_a_run_has_one_shape_or_a_few(packed: bool) -> None:
    random = np.random.default_rng(2)
    layout = packing.Layout(4, 500, packed=packed, fixed=True)
    collator = Collator(layout)
    shapes = {tuple(collator.largest([example(random, 90)])["input_ids"].shape)}
    for _ in range(30):
        lengths = random.integers(1, 501, int(random.integers(1, 40))).tolist()
        examples = [example(random, length) for length in lengths]
        step = collator(examples)
        shapes |= {tuple(tensors["input_ids"].shape) for tensors in step["micro_batches"]}
        assert sum(step["counted"]) == sum(lengths) - len(lengths), "each token but the first of each example"
        assert step["tokens"] == sum(lengths)
        held = [ids for tensors in step["micro_batches"] for ids in tensors["input_ids"].flatten().tolist() if ids]
        assert sorted(held) == sorted(ids for item in examples for ids in item["input_ids"].tolist())
    widths = {width for _, width in shapes}
    if packed:
        assert shapes == {(4, 512)}
    else:
        assert len(widths) <= 8
        assert max(widths) == 500, "a padded row has no positions beyond the maximum length"


def example(random: np.random.Generator, length: int) -> dict[str, Any]:
    return {"input_ids": random.integers(1, 300, length), "counts": np.ones(length, bool)}


@pytest.mark.parametrize("way", ["bfd", "off"])
def test_out_of_memory_is_not_the_end(
    way: str, config: RunConfig, train: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A device that holds two rows at once, and on which seven were planned: the run learns what it learns anywhere,
    says what happened, and a resumed run keeps to what fits."""
    config = packed(replace(config, training=replace(config.training, per_device_train_batch_size=7)), way)
    roomy = train(config)
    refused: list[int] = []

    def forward(model: Any, *values: Any, **keywords: Any) -> Any:
        rows = keywords["input_ids"].shape[0]
        if rows > 2:
            refused.append(rows)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return native(model, *values, **keywords)

    native = PeftModelForCausalLM.forward
    monkeypatch.setattr(PeftModelForCausalLM, "forward", forward)
    monkeypatch.setattr("trainer.training.steps.LargestFirst.on_train_begin", try_largest)
    tight = train(config)
    assert refused
    assert len(refused) <= 3, "the size that fits is kept"
    for left, right in zip(figures(roomy), figures(tight), strict=True):
        assert left == pytest.approx(right, rel=2e-5)
    texts = [event.get("text", "") for event in tight]
    assert [text for text in texts if "Out of memory" in text]
    assert next(place for place, event in enumerate(tight) if "Out of memory" in event.get("text", "")) < next(
        place for place, event in enumerate(tight) if event["type"] in ("metrics", "eval")
    )
    plan = json.loads((newest(tmp_path) / "plan.json").read_text())
    assert plan["levers"]["per_device_train_batch_size"] == 2


def try_largest(callback: Any, *_: Any, **__: Any) -> None:
    callback._steps.try_largest()


def newest(folder: Path) -> Path:
    return max(folder.glob("run-*"), key=lambda path: path.stat().st_mtime)
