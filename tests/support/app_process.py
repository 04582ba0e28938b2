"""The app in a process of its own, as a person starts it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.lab import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]


class App(NamedTuple):
    address: str
    folder: Path
    """Its runs folder is `folder/runs`."""
    log: Path
    process: subprocess.Popen[bytes]


@contextmanager
def running(folder: Path, *options: str, **environment: str) -> Iterator[App]:
    """An app on a free port of this machine, once it answers."""
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "app.py", "--port", port, "--runs-dir", str(folder / "runs"), *options]
    places = os.environ | {"LAB_DEVICE_LOCKS": str(folder / "locks")}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=places | environment, stdout=output, stderr=output)
    try:
        wait_for(lambda: "running on" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield App(f"http://127.0.0.1:{port}", folder, log, process)
    finally:
        process.terminate()
        process.wait(PATIENCE)
