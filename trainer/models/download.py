"""Downloads a hub model's files into the hub client's own cache: resumable, checksummed, with progress events.

Large files are fetched here, since the client starts over after every interruption: `blobs/<sha256>.incomplete` grows
until it is whole and has the right checksum. Small ones, and the links by which everything finds them, are the
client's.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.common import atomic, file_locks, file_modes
from trainer.common.disk import disk_full
from trainer.common.disk_cache import FULL
from trainer.common.errors import InvalidConfig, UserError
from trainer.common.formatting import size
from trainer.config.schema import ModelConfig
from trainer.models.base_model import BaseModels, disk_space_issue
from trainer.models.hub import HubFile, Repository, refusal

Sink = Callable[..., None]
PARALLEL_DOWNLOADS = 4
"""Files downloaded in parallel."""
POLL_SECONDS = 0.25
"""Seconds between checks of the download threads."""
MIN_INTERVAL = 1.0
"""Least seconds between two progress events,"""
MAX_INTERVAL = 10.0
"""most seconds between them,"""
MIN_SHARE = 0.002
"""and the share of the total that triggers one earlier: a download writes a few hundred events at most."""
SPEED_WINDOW = 15.0
"""Seconds over which the speed is measured."""
MAX_ATTEMPTS = 6
"""Connections without progress before a download fails."""
READ_TIMEOUT = 30.0
"""Seconds without data after which a connection is considered broken."""


def fetch(model: ModelConfig, models_dir: Path, commit: str, sink: Sink) -> ModelConfig:
    """The model with its revision pinned to a commit, and that commit's files in the cache.

    `commit`: the one the run is pinned to; empty: what the revision points to now. A local model stays as it
    is. Events: {"type": "base", "revision", "commit"} if it was not pinned before, and
    {"type": "download", "files", "of", "bytes", "total", "speed"}. Raises UserError.
    """
    base = BaseModels(models_dir)
    pinned = replace(model, revision=commit or model.revision)
    found = base.examine(pinned)
    if not found.commit:  # a local model, or an unknown one
        if found.issues:
            raise InvalidConfig(found.issues)
        return model
    if not commit:
        sink("base", revision=model.revision, commit=found.commit)
    if found.issues:
        raise InvalidConfig(found.issues)
    pinned = replace(model, revision=found.commit)
    repository = base.hub.find(pinned) if found.files else None
    if repository is not None:
        number = "one file" if found.files == 1 else f"{found.files} files"
        sink("log", text=f"Downloading {number} of {model.name}, {size(found.bytes)}")
        download(repository, sink)
    return pinned


@file_modes.ordinary()
def download(repository: Repository, sink: Sink) -> None:
    """Download all files that training needs into the cache. Raises UserError, and what a signal handler raises."""
    if lacking := disk_space_issue(repository.name, repository.folder, repository.left):
        raise UserError(lacking.problem, lacking.fix, "disk")
    files = repository.missing
    stop = threading.Event()
    large = [file for file in files if file.sha256]
    progress = _ProgressReporter(repository, files, sink)
    pool = _Pool(PARALLEL_DOWNLOADS)
    try:
        waiting = [pool.submit(_fetch, repository, file, stop) for file in large]
        while not all(future.done() for future in waiting):
            for future in waiting:
                if future.done():
                    future.result()  # one failure ends all of them
            progress.update()
            time.sleep(POLL_SECONDS)
        for future in waiting:
            future.result()
        _link(repository, files)
        progress.end()
    finally:
        stop.set()


class _Pool:
    """Daemon threads, which end with the process: a stop does not wait for a connection."""

    def __init__(self, number: int) -> None:
        self._free = threading.Semaphore(number)

    def submit(self, work: Callable[..., None], *arguments: Any) -> Future[None]:
        future: Future[None] = Future()

        def run() -> None:
            with self._free:
                try:
                    work(*arguments)
                    future.set_result(None)
                except BaseException as error:
                    future.set_exception(error)

        threading.Thread(target=run, name="download", daemon=True).start()
        return future


class _ProgressReporter:
    """Reports a download's progress as a limited number of events."""

    def __init__(self, repository: Repository, files: Sequence[HubFile], sink: Sink) -> None:
        self._repository, self._files, self._sink = repository, files, sink
        self._total = sum(file.size for file in files)
        self._seen: deque[tuple[float, int]] = deque()
        """(time, bytes) samples within SPEED_WINDOW."""
        self._last_event = (float("-inf"), 0)

    def update(self) -> None:
        now, done = time.monotonic(), sum(map(self._bytes, self._files))
        self._seen.append((now, done))
        while self._seen[0][0] < now - SPEED_WINDOW:
            self._seen.popleft()
        passed, before = now - self._last_event[0], self._last_event[1]
        if passed >= MAX_INTERVAL or (passed >= MIN_INTERVAL and done - before >= MIN_SHARE * self._total):
            self._send(now, done)

    def end(self) -> None:
        self._send(time.monotonic(), self._total)

    def _send(self, now: float, done: int) -> None:
        since, before = self._seen[0] if self._seen else (now, done)
        speed = (done - before) / (now - since) if now > since else 0.0
        ready = len(self._files) if done >= self._total else sum(map(self._ready, self._files))
        self._sink("download", files=ready, of=len(self._files), bytes=done, total=self._total, speed=round(speed))
        self._last_event = (now, done)

    def _bytes(self, file: HubFile) -> int:
        if self._ready(file):
            return file.size
        with contextlib.suppress(OSError):
            return min(self._repository.partial(file).stat().st_size, file.size)
        return 0

    def _ready(self, file: HubFile) -> bool:
        return _blob(self._repository, file).is_file() or (self._repository.folder / file.name).is_file()


def _blob(repository: Repository, file: HubFile) -> Path:
    return repository.partial(file).with_suffix("")


def _fetch(repository: Repository, file: HubFile, stop: threading.Event) -> None:
    """Download one large file, resuming an earlier attempt. Raises UserError."""
    part, blob = repository.partial(file), _blob(repository, file)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        cache = repository.folder.parents[2]
        lock = file_locks.acquire(cache / ".locks" / f"{file.sha256}.lab-lock", patience=float("inf"), shared=True)
        with lock or contextlib.nullcontext():
            if not blob.is_file():
                _complete(repository, file, part, stop)
                if not stop.is_set():
                    atomic.publish(part, blob)
    except OSError as error:
        if error.errno in FULL:
            raise disk_full() from error
        raise


def _complete(repository: Repository, file: HubFile, part: Path, stop: threading.Event) -> None:
    """Append to `part` until it is the whole file and has its checksum. Raises UserError."""
    attempts = 0
    while not stop.is_set():
        before = _size(part)
        if before >= file.size:
            if before == file.size and _sha256(part, stop) == file.sha256:
                return
            if not stop.is_set():
                part.unlink()  # left by another program or a corrupted attempt
                attempts += 1
        else:
            problem = _append(repository, file, part, stop)
            attempts = 0 if _size(part) > before else attempts + 1
            if problem is not None and attempts < MAX_ATTEMPTS:
                stop.wait(min(2**attempts, 10))
        if attempts >= MAX_ATTEMPTS:
            raise UserError(
                f"The download of {repository.name} stopped after {size(_size(part))} of {file.name} "
                f"({size(file.size)}).",
                "Check the network, then resume the run: the download continues from there.",
            )


def _append(repository: Repository, file: HubFile, part: Path, stop: threading.Event) -> Exception | None:
    """Append to `part` until the connection ends; returns the error that ended it, if any.

    Raises UserError where the hub refuses, OSError where the disk does.
    """
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status

    url = hf_hub_url(repository.name, file.name, revision=repository.commit)
    start = _size(part)
    headers = {**build_hf_headers(), "Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    try:
        with get_session().stream(
            "GET", url, headers=headers, follow_redirects=True, timeout=READ_TIMEOUT
        ) as response:
            hf_raise_for_status(response)
            with part.open("ab" if response.status_code == 206 else "wb") as target:
                for chunk in response.iter_bytes():
                    target.write(chunk)
                    if stop.is_set():
                        return None
    except Exception as error:  # of any kind: the client's network library differs between versions
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        refused = refusal(repository.name, error)
        if type(refused) is UserError:
            raise refused from error
        return error
    return None


def _sha256(path: Path, stop: threading.Event) -> str:
    """The SHA-256 of a file; empty if stopped in the meantime."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**24):
            if stop.is_set():
                return ""
            found.update(chunk)
    return found.hexdigest()


def _link(repository: Repository, files: Sequence[HubFile]) -> None:
    """Small files, and the snapshot's links to all files, through the hub client. Raises UserError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    names = [file.name for file in files]
    try:
        snapshot_download(
            repository.name, revision=repository.commit, allow_patterns=names, max_workers=PARALLEL_DOWNLOADS
        )
    except OSError as error:
        if error.errno in FULL:
            raise disk_full() from error
        raise refusal(repository.name, error) from error
    if lost := [name for name in names if not (repository.folder / name).is_file()]:
        raise UserError(
            f"The hub did not deliver {', '.join(lost[:3])} of {repository.name}.",
            "Check the network, and resume the run.",
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
