"""Ways in which the files of a run or an experiment are damaged, and a finished run to damage."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config.schema import default_config
from trainer.runs import event_log, row_losses

HOSTILE = "\x1b[31mred\x1b]52;c;ZXZpbA==\x07\u202ecod.exe\x9b2J\x7f\nsecond line\r<img src=x onerror=alert(1)>\ud800"
ODD: tuple[Any, ...] = (
    None, True, -1, 10**30, 1e300, -1e300, 2**62, "", "x", "²", HOSTILE, "9" * 5000, [], [1], {}, {"a": []}, [[[]]],
)  # fmt: skip
"""Values of a wrong type or size."""
Damage = Callable[[Path, random.Random], None]


def finished_run(folder: Path, title: str = "A run", seed: int = 0) -> None:
    """A run folder as a worker leaves it: configuration, plan, events, figures, adapter, checkpoints."""
    config = default_config().to_json()
    config |= {"title": title, "modules": [{"name": "q_proj"}, {"name": "lm_head", "treatment": "full"}]}
    config["training"] |= {"seed": seed}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    report = {"tick": "q_proj", "treatment": "lora", "matched": 2, "of": 2, "names": ["a", "b"], "note": "2 of 2"}
    plan = {
        "trainable": 1000, "total": 5000, "adapter_bytes": 4000, "memory": {"weights": 10_000, "logits": 500},
        "memory_predicted": 10_500, "checkpoint": {}, "device_memory": {"model": "", "total": 0}, "steps": 20,
        "levers": {"per_device_train_batch_size": 4}, "receipts": [report], "issues": [],
        "warnings": [{"field": "x", "problem": "A warning.", "fix": ""}], "base": {},
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "lock").touch()
    (folder / "place").write_text("3")
    (folder / "title").write_text(title)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "checkpoints" / "checkpoint-20").mkdir(parents=True)
    writer = event_log.EventWriter(folder / "events.jsonl", figures=True)
    writer.write("state", state="queued")
    writer.write("state", state="starting", worker="1-1")
    writer.write("state", state="running", steps=20, examples=160)
    for step in range(1, 21):
        writer.write(
            "metrics", step=step, loss=3 / step, tokens=100.0 * step, tokens_per_second=50.0, elapsed=step * 2.0,
            memory=9000 + seed,
        )  # fmt: skip
        if step % 5 == 0:
            writer.write("eval", step=step, eval_loss=2 / step + seed / 100, perplexity=2.0, eval_accuracy=0.5)
    for name, rise in ((row_losses.HELD_OUT, -1.0), (row_losses.GENERAL, 0.5)):
        for step in (0, 20):
            losses, tokens = np.arange(1, 7) * 4.0 + rise * step / 20, np.full(6, 4)
            row_losses.record(folder, name, f"set {seed}", step, losses, tokens)
    writer.write("log", text="half")
    writer.write("state", state="finished")
    writer.close()


def experiment_of(run_ids: list[str], experiment_id: str) -> dict[str, Any]:
    """An experiment of these runs, one seed each."""
    config = default_config().to_json() | {"modules": [{"name": "q_proj"}]}
    scenario = {
        "key": "a", "title": "Scenario A", "note": "", "runs": True, "same_as": "", "r": 16, "budget": "",
        "trainable": 1000, "adapter_bytes": 4000, "memory": 10, "issues": [], "config": config,
        "receipts": [{"tick": "q_proj", "treatment": "lora", "matched": 1, "names": ["a"], "note": "1"}],
    }  # fmt: skip
    return {
        "id": experiment_id, "name": "An experiment", "question": "Which?", "equal_budget": False,
        "scenarios": [scenario], "machine": {"system": "x"},
        "members": [{"scenario": "a", "seed": seed, "run": run_id} for seed, run_id in enumerate(run_ids)],
    }  # fmt: skip


def _replace(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fifo(path: Path, _: random.Random) -> None:
    _replace(path)
    os.mkfifo(path)


def directory(path: Path, _: random.Random) -> None:
    _replace(path)
    path.mkdir()


def missing(path: Path, _: random.Random) -> None:
    _replace(path)


def empty(path: Path, _: random.Random) -> None:
    _replace(path)
    path.touch()


def unix_socket(path: Path, _: random.Random) -> None:
    _replace(path)
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(path.parent, os.O_RDONLY)  # its full path may be longer than a socket's may be
        server.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def device(path: Path, _: random.Random) -> None:
    _replace(path)
    path.symlink_to("/dev/zero")


def loop(path: Path, _: random.Random) -> None:
    _replace(path)
    path.symlink_to(path.name)


def garbage(path: Path, chance: random.Random) -> None:
    _write(path, chance.randbytes(20_000))


def zeros(path: Path, _: random.Random) -> None:
    _write(path, bytes(50_000))


def sparse(path: Path, _: random.Random) -> None:
    """Ten terabytes that take no space."""
    _write(path, b"")
    os.truncate(path, 10**13)


def long_line(path: Path, _: random.Random) -> None:
    _write(path, b'{"type": "log", "text": "' + b"x" * 80_000_000 + b'"}\n')


def nested(path: Path, _: random.Random) -> None:
    _write(path, b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n")


def flipped(path: Path, chance: random.Random) -> None:
    """Some bytes are others."""
    data = bytearray(path.read_bytes() if path.is_file() else b"")
    for _ in range(min(len(data), chance.randint(1, 20))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    _write(path, bytes(data))


def cut(path: Path, chance: random.Random) -> None:
    data = path.read_bytes() if path.is_file() else b""
    _write(path, data[: chance.randint(0, len(data))])


def odd_values(path: Path, chance: random.Random) -> None:
    """Valid JSON, some values of which have a wrong type, size or key; rows are mixed up as well."""
    try:
        rows = [
            json.loads(row)
            for row in (path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()])
        ]
    except (OSError, ValueError):
        rows = [{}]
    rows = [_with_odd(row, chance) if chance.random() < 0.5 else row for row in rows]
    if chance.random() < 0.3:
        chance.shuffle(rows)
    _write(path, "\n".join(map(json.dumps, rows)).encode() + b"\n")


def _with_odd(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        changed = dict(value)
        kind = chance.random()
        if kind < 0.1:
            del changed[key]
        elif kind < 0.2:
            changed[HOSTILE if chance.random() < 0.5 else "unknown"] = changed.pop(key)
        else:
            changed[key] = _with_odd(value[key], chance)
        return changed
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [_with_odd(item, chance) if number == place else item for number, item in enumerate(value)]
    return chance.choice(ODD)


def hostile_text(path: Path, _: random.Random) -> None:
    _write(path, json.dumps({"type": "log", "text": HOSTILE, "schema": 99, "title": HOSTILE}).encode() + b"\n")


def _write(path: Path, data: bytes) -> None:
    _replace(path)
    path.write_bytes(data)


DAMAGES: tuple[Damage, ...] = (
    fifo, directory, missing, empty, unix_socket, device, loop, garbage, zeros, sparse, long_line, nested, flipped,
    cut, odd_values, odd_values, odd_values, hostile_text,
)  # fmt: skip
FEW: tuple[Damage, ...] = (fifo, directory, loop, garbage, long_line, hostile_text)
FILES = (
    "events.jsonl", "events.jsonl", "config.json", "plan.json", "title", "metrics.f64", "place", "lock", "stop",
    "adapter/adapter_model.safetensors", "adapter", "checkpoints", "adapter/adapter_config.json",
)  # fmt: skip
