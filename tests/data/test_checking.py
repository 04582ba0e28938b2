"""Data from file to tokens: shapes, problems with their lines, the split, the cache, the command line."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from tests.support.data_files import CHAT, PAIR, keep, lines, texts
from tests.support.lab import PATIENCE
from trainer.cli import main as command
from trainer.common import disk_cache
from trainer.common.errors import UserError
from trainer.config import overrides, validation
from trainer.config.schema import DataConfig, RunConfig, TrainingConfig, default_config
from trainer.data import lengths
from trainer.data.checking import check
from trainer.data.preparation import load_data, prepare
from trainer.data.quality_report import report
from trainer.data.readers import hub_datasets, uploads
from trainer.data.splits import split
from trainer.planning.schedule import total_steps, warmup_steps
from trainer.runs.store import RunStore

BAD_ROWS = {
    "no column with an answer": {"instruction": "Where?"},
    "no known shape": {"a": 1, "b": "x"},
    "the answer is empty": {"question": "Where?", "answer": " "},
    "answer is not text": {"question": "Where?", "answer": 3},
    "no answer in it": {"messages": CHAT["messages"][:1]},
    "an answer is empty": {"messages": [CHAT["messages"][0], {"role": "assistant", "content": ""}]},
    "the conversation is empty": {"messages": []},
    "has no role": {"messages": [{"content": "x"}]},
    "only text": {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
    "the text is empty": {"text": "\n"},
    "names no function": {"messages": [*CHAT["messages"], {"role": "assistant", "content": "", "tool_calls": ["x"]}]},
}


def test_bad_rows_are_named_grouped_and_left_out_only_if_asked(tmp_path: Path) -> None:
    data = keep(tmp_path, "a.jsonl", lines(PAIR, *BAD_ROWS.values(), PAIR))
    found = check(data, tmp_path)
    assert [item.line for item in found.bad] == list(range(2, 2 + len(BAD_ROWS)))
    for item, reason in zip(found.bad, BAD_ROWS, strict=True):
        assert reason in item.reason
    told = report(RunConfig(data=data), tiny.tokenizer(), tmp_path)
    assert sum(group["count"] for group in told["bad_groups"]) == len(BAD_ROWS)
    assert "line 2: " in told["issues"][0]["problem"]
    with pytest.raises(UserError, match=f"{len(BAD_ROWS)} of {len(BAD_ROWS) + 2} rows.*: line 2"):
        prepare(data, tiny.tokenizer(), 64, 0, tmp_path)
    skipping = replace(data, bad_rows="skip", eval_fraction=0.0)
    prepared = prepare(skipping, tiny.tokenizer(), 64, 0, tmp_path)
    assert len(prepared.train) == 2
    assert [item.line for item in prepared.skipped] == list(range(2, 2 + len(BAD_ROWS)))
    assert not report(RunConfig(data=skipping), tiny.tokenizer(), tmp_path)["issues"]
    with pytest.raises(UserError, match="1 of 1 rows"):
        prepare(
            replace(keep(tmp_path, "b.jsonl", lines({"a": 1})), bad_rows="skip"), tiny.tokenizer(), 64, 0, tmp_path
        )


def test_the_same_text_is_never_on_both_sides(tmp_path: Path) -> None:
    keys = np.random.default_rng(0).integers(0, 40, 400).astype(np.uint64)
    train, held = split(keys, 0.2, seed=1)
    assert sorted([*train, *held]) == list(range(400))
    assert not set(keys[train]) & set(keys[held])
    assert 0.1 <= len(held) / 400 <= 0.3
    assert (split(keys, 0.2, seed=1)[1] == held).all()
    assert (split(keys, 0.2, seed=2)[1].tolist()) != held.tolist()
    assert len(split(keys[:1], 0.5, 0)[1]) == 0
    assert len(split(np.zeros(9, np.uint64), 0.5, 0)[1]) == 0
    rows = [{"question": f"Where is {n}?", "answer": "Here."} for n in range(20)]
    data = keep(tmp_path, "a.jsonl", lines(*rows))
    keep(tmp_path, "b.jsonl", lines(*rows[15:], {"question": "New?", "answer": "Yes."}))
    found = load_data(replace(data, held_out="b.jsonl"), tiny.tokenizer(), 512, 0, tmp_path)
    assert found.held_out is not None
    assert (len(found.train.chosen), len(found.held_out.chosen), found.shared) == (20, 1, 5)


def test_lengths_are_told_and_a_maximum_is_suggested(tmp_path: Path) -> None:
    rows = [{"question": "Where?", "answer": "x" * size} for size in [40] * 99 + [600]]
    data = replace(keep(tmp_path, "a.jsonl", lines(*rows)), eval_fraction=0.0)
    training = TrainingConfig(max_length=32, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    told = report(RunConfig(data=data, training=training), tiny.tokenizer(), tmp_path, 128)
    tokens = told["tokens"]
    prepared = prepare(data, tiny.tokenizer(), 32, 0, tmp_path)
    assert any("100 answers" in note for note in prepared.notes)
    assert tokens["answers_cut"] == tokens["longer"] == 100
    assert tokens["suggested_max_length"] == 64
    assert tokens["total"] == 100 * 32 == sum(prepared.lengths)
    by_hand = sum(int(example["counts"][:32].sum()) for example in prepared.train)
    assert tokens["counted"] == by_hand
    assert sum(tokens["histogram"]["counts"]) == 100
    assert told["training"]["steps_per_epoch"] == 7
    assert told["duplicates"] == 98
    assert lengths.suggested(np.array([500] * 100)) == 512


def test_data_of_which_nothing_counts_cannot_start(tmp_path: Path) -> None:
    data = keep(tmp_path, "a.jsonl", lines(*[{"question": f"Where {n}?" * 30, "answer": "Here."} for n in range(4)]))
    with pytest.raises(UserError, match="No token"):
        prepare(data, tiny.tokenizer(), 16, 0, tmp_path)
    told = report(RunConfig(data=data, training=TrainingConfig(max_length=16)), tiny.tokenizer(), tmp_path)
    assert told["issues"][0]["field"] == "training.max_length"
    assert told["tokens"]["examples"] == 0


def test_few_rows_are_warned_of_with_settings_that_help(tmp_path: Path) -> None:
    def few(config: RunConfig) -> list[dict[str, Any]]:
        told = report(config, tiny.tokenizer(), tmp_path)
        return [item for item in told["warnings"] if "learns little" in item["problem"]]

    rows = [{"instruction": f"question {n}", "output": f"answer {n}"} for n in range(50)]
    config = RunConfig(data=replace(keep(tmp_path, "a.jsonl", lines(*rows)), eval_fraction=0.0))
    (warning,) = few(config)
    assert "50 examples in batches of 64 make 1 step:" in warning["problem"]
    better = validation.from_json(overrides.apply(config.to_json(), warning["changes"]))
    steps = total_steps(better.training, 50)
    assert steps >= 20 and f"{steps} steps" in warning["fix"]
    assert not few(better)
    assert not few(replace(config, training=TrainingConfig(max_steps=3)))
    assert all(warmup_steps(config.training, steps) < steps for steps in range(1, 40)), "no run is warmup alone"


def test_the_same_content_is_checked_and_tokenized_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = keep(tmp_path, "a.jsonl", lines(PAIR, {"question": "Where?", "answer": "There."}))
    made: list[str] = []
    real = disk_cache._make

    def made_again(target: Path, make: Callable[[Path], None]) -> Any:
        made.append(target.name)
        return real(target, make)

    monkeypatch.setattr(disk_cache, "_make", made_again)
    first = load_data(data, tiny.tokenizer(), 512, 0, tmp_path)
    load_data(data, tiny.tokenizer(), 512, 1, tmp_path)
    assert len(made) == 2
    (tmp_path / "a.jsonl").write_bytes(lines(PAIR, PAIR, PAIR))
    assert load_data(data, tiny.tokenizer(), 512, 0, tmp_path).rows == 3
    load_data(replace(data, system_prompt="Be."), tiny.tokenizer(), 512, 0, tmp_path)
    assert len(made) == 5
    assert len(first.train.dataset()) == 2, "what is in use stays"


def _check(folder: Path) -> None:
    assert check(DataConfig(source="file", path="a.jsonl"), folder).good == 3000


def test_two_processes_may_make_the_same_thing(tmp_path: Path) -> None:
    keep(tmp_path, "a.jsonl", lines(*[PAIR] * 3000))
    jobs = [multiprocessing.get_context("fork").Process(target=_check, args=(tmp_path,)) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(PATIENCE)
    assert [job.exitcode for job in jobs] == [0] * 4
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_cache_counts_and_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tmp_path / "data"
    folder = check(keep(stored, "a.jsonl", lines(*[PAIR] * 100)), stored).folder
    used = sum(file.stat().st_size for file in stored.rglob("*") if file.is_file())
    new = tmp_path / "new.jsonl"
    new.write_bytes(lines(PAIR))
    monkeypatch.setattr(uploads, "QUOTA_BYTES", used + new.stat().st_size)
    uploads.keep_data(new, stored)
    assert folder.exists()
    new.write_bytes(lines(PAIR, PAIR))
    uploads.keep_data(new, stored)
    assert not folder.exists()
    new.write_bytes(b"x" * used)
    with pytest.raises(UserError, match="quota"):
        uploads.keep_data(new, stored)


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `datasets` itself, on a folder that stands for the hub: whole and as a stream."""
    import datasets

    folder = tmp_path / "set"
    keep(folder, "train.jsonl", lines(*[{"question": f"{n}?", "answer": "Yes."} for n in range(30)]))
    keep(folder, "test.jsonl", lines({"question": "Sure?", "answer": "No."}))
    for name in ("load_dataset", "load_dataset_builder"):
        real = getattr(datasets, name)
        here = functools.partial(lambda real, _path, *rest, **more: real(str(folder), *rest, **more), real)
        monkeypatch.setattr(datasets, name, functools.partial(here, cache_dir=str(tmp_path / "hf")))
    for large in (2**40, -1):
        monkeypatch.setattr(hub_datasets, "LARGE", large)
        data = DataConfig(source="hub", path="owner/name", split="train[10:25]", held_out="test")
        found = load_data(data, tiny.tokenizer(), 512, 0, tmp_path / str(large))
        assert found.rows == 16
        assert texts(found.train.checked)[0][0] == ("user", "10?")
    with pytest.raises(UserError, match="no split nothing"):
        load_data(replace(data, split="nothing"), tiny.tokenizer(), 512, 0, tmp_path / "0")
    with pytest.raises(UserError, match="valid split"):
        load_data(replace(data, split="train[:5%]"), tiny.tokenizer(), 512, 0, tmp_path / "0")


def run(capsys: Any, tmp_path: Path, name: str, content: bytes, *more: str) -> tuple[int, dict[str, Any]]:
    """The command line's answer for a file: its exit code and the report."""
    file = tmp_path / name
    file.write_bytes(content)
    code = command.main(["--runs-dir", str(tmp_path / "runs"), "data", str(file), "--model", "demo", "--json", *more])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, json.loads(out)


UNUSABLE = {
    "empty.jsonl": (b"", "empty"),
    "binary.jsonl": (bytes(range(256)) * 9, "not a text file"),
    "line.json": (b'{"a": "' + b"x" * 50_000_000 + b'"}', "longer than"),
    "line.jsonl": (b'{"text": "' + b"x" * 50_000_000 + b'"}', "longer than"),
    "deep.json": (b"[" * 100_000, "nested deeper"),
    "deep.jsonl": (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper"),
    "digits.jsonl": (b'{"text": ' + b"9" * 5000 + b"}", "too many digits"),
    "nul.jsonl": (b'{"text": "a\\u0000b"}', "NUL"),
    "long.jsonl": (lines({"question": "Where? " * 200, "answer": "Here."}), "No token"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_the_command_line_says_why_a_file_is_of_no_use(name: str, tmp_path: Path, capsys: Any) -> None:
    code, told = run(capsys, tmp_path, name, UNUSABLE[name][0])
    assert code == 2
    assert any(UNUSABLE[name][1] in f"{issue['problem']} {issue['fix']}" for issue in told["issues"])


def parquet_of_nested() -> bytes:
    import pyarrow
    from pyarrow import parquet

    packed = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([{**CHAT, "meta": {"a": [{"b": 1}]}}] * 3), packed)
    return packed.getvalue()


USABLE = {
    "bom.csv": "\ufeffquestion,answer\nWhere?,Here.\n".encode(),
    "quotes.csv": b'question,answer\n"one\ntwo, three","he said ""no"""\n',
    "nested.parquet": parquet_of_nested(),
    "methods.jsonl": lines({"items": "x", "keys": "y", "__class__": "z", "question": "Where?", "answer": "Here."}),
    "emoji.jsonl": lines({"question": "👩‍🚀☕?", "answer": "مرحبا \u202eabc"}),
    "single.jsonl": lines(PAIR),
    "some-bad.jsonl": lines(PAIR, {"question": "Where?", "answer": ""}),
}


@pytest.mark.parametrize("name", USABLE)
def test_unusual_files_are_understood(name: str, tmp_path: Path, capsys: Any) -> None:
    code, told = run(capsys, tmp_path, name, USABLE[name])
    assert code == 0
    assert told["tokens"]["counted"] > 0
    assert told["rows"] - len(told["bad"]) == told["good"] >= 1
    assert {"rows", "shape", "why", "bad", "issues"} <= set(told)
    if name == "some-bad.jsonl":
        (bad,) = told["bad"]
        assert bad["line"] == 2 and "empty" in bad["reason"]
    if name == "single.jsonl":
        assert any("single example" in warning["problem"] for warning in told["warnings"])


def test_no_run_is_made_of_data_that_cannot_be_used(tmp_path: Path, capsys: Any) -> None:
    modules = [{"name": "o_proj", "treatment": "lora"}]
    (tmp_path / "run.json").write_text(json.dumps(default_config().to_json() | {"modules": modules}))
    (tmp_path / "long.jsonl").write_bytes(UNUSABLE["long.jsonl"][0])
    words = ["--runs-dir", str(tmp_path / "runs"), "train", str(tmp_path / "run.json")]
    assert command.main([*words, "--data-file", str(tmp_path / "long.jsonl")]) == 2
    assert "No token" in capsys.readouterr().err
    assert RunStore(tmp_path / "runs").ids() == []


def test_the_command_line_shows_examples(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines({"question": "Where\x1b[31m is it?", "answer": "☕ Here."}, PAIR, PAIR))
    words = ["--runs-dir", str(tmp_path / "runs"), "data", str(file), "--show", "2", "--max-length", "16"]
    assert command.main(words) == 0
    out = capsys.readouterr().out
    assert "⟦" in out and "Here.<|end|>⟧" in out
    assert "\x1b" not in out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with contextlib.suppress(AttributeError):
        assert command.main(words) == 0
        out = capsys.readouterr().out
        assert "\x1b[30;42m" in out
        assert "\x1b[31m is" not in out


def test_the_demo_is_data_like_any_other(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from trainer import demo

    told = report(default_config(), AutoTokenizer.from_pretrained(demo.MODEL_DIR), tmp_path)
    assert (told["rows"], told["held_out"]["examples"], told["issues"]) == (2640, 240, [])
    assert told["batches"]["way"] == "bfd"
