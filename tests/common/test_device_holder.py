"""Who has a device, as other programs read it: believed only as far as it can be."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from trainer.common import device_holder, devices, file_locks
from trainer.common.device_holder import COMMAND_LINE, SIZE, Holder


@pytest.fixture
def lock() -> Iterator[BinaryIO]:
    held = file_locks.acquire(devices.lock_path("cpu"))
    assert held is not None
    yield held
    held.close()


def holder() -> Holder:
    me = file_locks.identity(os.getpid())
    return Holder(me, "20261128-120000-abcdef", "Pirate", "/home/somebody/runs-2", COMMAND_LINE, 0.0)


def test_the_holder_is_read_while_it_lives(lock: BinaryIO) -> None:
    mine = holder()
    device_holder.write(lock, mine)
    assert device_holder.read("cpu") == mine
    said = mine.describe("the device", Path("/home/somebody/runs"))
    assert said.startswith("“Pirate” in another runs folder, “runs-2”, has had the device since 1970-01-01")
    assert said.endswith("(started from the command line)")
    assert "another" not in mine.describe("the device", Path("/home/somebody/runs-2"))
    device_holder.write(lock, replace(mine, worker=f"{os.getpid()}-1"))  # an earlier process with the same id
    assert device_holder.read("cpu") is None
    lock.close()
    assert device_holder.read("cpu") is None


DAMAGE: list[Any] = [
    b"", b"\xff" * 100, b"[" * SIZE, b"null", b"[]", {"since": "x"}, {"since": float("nan")}, {"since": -1},
    {"title": None}, {"title": ["a"]}, {"started_from": "<b>elsewhere</b>"}, {"worker": 7},
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_or_false_rows_are_ignored(damage: Any, lock: BinaryIO) -> None:
    if isinstance(damage, dict):
        damage = json.dumps(vars(holder()) | damage).encode()
    os.pwrite(lock.fileno(), damage.ljust(SIZE), 0)
    assert device_holder.read("cpu") is None


def test_foreign_texts_are_plain_and_bounded(lock: BinaryIO) -> None:
    device_holder.write(lock, replace(holder(), title="\x1b[31mred\n" + "x" * 900))
    found = device_holder.read("cpu")
    assert found is not None
    assert len(found.title) <= 120 and found.title.isprintable()
