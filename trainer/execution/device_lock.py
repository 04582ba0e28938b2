"""Waits for a device and takes its lock, which says who has it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from trainer.common import device_holder, devices, file_locks, heartbeat
from trainer.common.device_holder import Holder
from trainer.runs.run import Run

DEVICE_PATIENCE = 1.0
"""Seconds to wait for a device before saying so: the previous worker may be about to end."""

_HELD: list[BinaryIO] = []
"""The device's lock, released when the process ends, like its memory on the device."""


def run_holder(run: Run, started_from: str) -> Holder:
    """This process as the holder of a device, for `run`."""
    process = file_locks.identity(os.getpid())
    return Holder(process, run.id, run.title, str(run.folder.parent), started_from, time.time())


def take_device(names: Sequence[str], holder: Holder, say: Callable[[str], None]) -> str:
    """Lock the first of these devices that is free, and write into its lock who has it.

    `say`: called with a sentence whenever there is something new about who has them.
    """
    began, said = time.monotonic(), ""
    while True:
        for name in names:
            held = file_locks.acquire(devices.lock_path(name), shared=devices.locks_are_shared())
            if held is not None:
                _HELD.append(held)
                device_holder.write(held, replace(holder, since=time.time()))
                return name
        heartbeat.task(heartbeat.WAITING)
        if time.monotonic() - began > DEVICE_PATIENCE and said != (text := _waiting(names, Path(holder.folder))):
            say(text)
            said = text
        heartbeat.beat()
        time.sleep(0.05)


def _waiting(names: Sequence[str], runs: Path) -> str:
    """Which devices are waited for, and who has them."""
    holders = [holder.describe(name, runs) for name in names if (holder := device_holder.read(name))]
    return f"Waiting for {' or '.join(names)}: {'; '.join(holders) or 'another program is using it'}"
