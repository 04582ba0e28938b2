"""Takes a device for this process, or waits until one is free."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from trainer.common import device_holder, devices, file_locks
from trainer.common.device_holder import Holder
from trainer.runs.run import Run

PATIENCE = 1.0
"""Seconds to wait for a device before saying so: the process before may be about to end."""
_HELD: list[BinaryIO] = []
"""The device's lock, released when the process ends, like its memory on the device."""


def take(
    names: Sequence[str], run: Run, started_from: str, waiting: Callable[[], None], say: Callable[[str], None]
) -> str:
    """Lock the first of these devices that is free, and write into its lock that `run` has it.

    While none is free, calls `waiting` again and again, and `say` with who has them, once for each holder.
    """
    began, said = time.monotonic(), ""
    while True:
        for name in names:
            held = file_locks.acquire(devices.lock_path(name), shared=devices.locks_are_shared())
            if held is not None:
                _HELD.append(held)
                process = file_locks.identity(os.getpid())
                folder = str(run.folder.parent)
                device_holder.write(held, Holder(process, run.id, run.title, folder, started_from, time.time()))
                return name
        waiting()
        if time.monotonic() - began > PATIENCE and said != (text := _waiting(names, run.folder.parent)):
            say(text)
            said = text
        time.sleep(0.05)


def _waiting(names: Sequence[str], runs: Path) -> str:
    """Which devices the run waits for, and who has them."""
    holders = [holder.describe(name, runs) for name in names if (holder := device_holder.read(name))]
    return f"Waiting for {' or '.join(names)}: {'; '.join(holders) or 'another program is using it'}"
