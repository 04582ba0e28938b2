"""SIGTERM to the real app: it ends in time with all of its helpers; trainings go on, or stop with a checkpoint."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.faults.bench import ROOT, Bench, trains
from tests.support import app_process
from tests.support.lab import PATIENCE, wait_for
from trainer.training import checkpoints

DOCKER_SECONDS = 10.0
"""What `docker stop` waits for before it kills."""


def helpers(app: int) -> dict[str, list[psutil.Process]]:
    """The app's child processes by what they do."""
    found: dict[str, list[psutil.Process]] = {"analysis_server": [], "worker": []}
    for child in psutil.Process(app).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(child.cmdline())
            for name, processes in found.items():
                if f"trainer.execution.{name}" in line:
                    processes.append(child)
    return found


@contextlib.contextmanager
def open_pages(address: str, number: int) -> Iterator[None]:
    """Connections that browsers keep open, with their event streams."""
    with httpx.Client(timeout=PATIENCE) as http, contextlib.ExitStack() as streams:
        for page in range(number):
            streams.enter_context(http.stream("GET", f"{address}/gradio_api/heartbeat/page{page}"))
        yield


def test_sigterm_ends_the_app_and_its_helpers_while_a_training_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_DEVICE_LOCKS", str(bench.folder / "locks"))  # both apps use the same device
    run, waiting = bench.create(), bench.create()
    models = ("--models-dir", str(bench.models_dir))
    with app_process.running(bench.folder, *models) as app, open_pages(app.address, 5):
        bench.until_step(run, 1)
        worker = bench.worker_of(run)
        family = helpers(app.process.pid)
        analysis = family["analysis_server"]
        assert analysis
        analysis[0].suspend()  # busy for ever
        asking = threading.Thread(target=_ask_for_modules, args=(app.address,))
        asking.start()
        time.sleep(0.5)
        app.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert app.process.wait(DOCKER_SECONDS) == 0
        print(f"ended after {time.monotonic() - started:.1f} s")
        left = psutil.wait_procs([*analysis, *family["worker"]], 1)[1]
        assert [process.pid for process in left] == [worker]
        assert "Traceback" not in app.log.read_text()
        asking.join()
    wait_for(trains(bench.run(run)))
    bench.app()
    wait_for(trains(bench.run(run)))
    assert bench.worker_of(run) == worker, "the new app adopts it"
    assert bench.state(waiting) == "queued"
    bench.page_shows(run, "running")


def _ask_for_modules(address: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{address}/gradio_api/run/modules", json={"data": ["phi3", "main"]}, timeout=PATIENCE)


def test_sigterm_while_the_app_is_starting(tmp_path: Path) -> None:
    """As soon as its handler is there, and while it imports the page."""
    for seconds in (0.1, 1.5):
        command = [sys.executable, "app.py", "--port", str(_free_port()), "--runs-dir", str(tmp_path / "runs")]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as app:
            wait_for(partial(_handles_sigterm, app.pid), PATIENCE)
            time.sleep(seconds)
            app.send_signal(signal.SIGTERM)
            text, _ = app.communicate(timeout=DOCKER_SECONDS)
        assert (app.returncode, text) == (0, "")


def _handles_sigterm(process: int) -> bool:
    caught = Path(f"/proc/{process}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.full
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_process_1_of_a_container_stops_the_trainings_with_a_checkpoint(bench: Bench) -> None:
    run, waiting = bench.create(), bench.create()
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "app.py", "--port", str(_free_port())]
    command += ["--runs-dir", str(bench.folder / "runs"), "--models-dir", str(bench.models_dir)]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"LAB_STOP_RUNS": "1"}) as outside:
        (first,) = wait_for(psutil.Process(outside.pid).children)
        try:
            bench.until_step(run, 1)
            first.send_signal(signal.SIGTERM)
            assert outside.wait(DOCKER_SECONDS) == 0
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                first.kill()
    bench.page_shows(run, "stopped", "saved")
    assert checkpoints.newest_complete(run.folder / "checkpoints") is not None
    assert bench.state(waiting) == "queued", "it starts with the next container"
