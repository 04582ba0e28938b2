"""The files of a hub model into the hub client's own cache: resumable, checked, and told step by step.

Large files are fetched here, since the client begins them anew after every stop: `blobs/<sha256>.incomplete` grows
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

from trainer.common import atomic, file_locks
from trainer.common.disk import disk_full
from trainer.common.disk_cache import FULL
from trainer.common.errors import InvalidConfig, UserError
from trainer.common.formatting import size
from trainer.config.schema import ModelConfig
from trainer.models.base_model import BaseModels, no_room
from trainer.models.hub import HubFile, Repository, refusal

Sink = Callable[..., None]
AT_ONCE = 4
"""Files under way together."""
LOOK = 0.25
"""Seconds between two looks at the threads that download."""
TELL = 1.0
"""Seconds between two events at least,"""
TELL_SLOWLY = 10.0
"""and at most,"""
STEP = 0.002
"""or this share of the whole, so that no download writes more than some hundred."""
WINDOW = 15.0
"""Seconds over which the speed is measured."""
TRIES = 6
"""Connections that bring nothing before a download is given up."""
QUIET = 30.0
"""Seconds without a byte after which a connection counts as broken."""


def fetch(model: ModelConfig, models_dir: Path, commit: str, sink: Sink) -> ModelConfig:
    """The model with its revision pinned to a commit, and that commit's files in the cache.

    `commit`: what the run was pinned to before; empty: what the revision means now. A model of this machine is
    returned as it is. Events: {"type": "base", "revision", "commit"} where it was not pinned before, and
    {"type": "download", "files", "of", "bytes", "total", "speed"}. Raises UserError.
    """
    base = BaseModels(models_dir)
    pinned = replace(model, revision=commit or model.revision)
    found = base.examine(pinned)
    if not found.commit:  # of this machine, or known nowhere
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


def download(repository: Repository, sink: Sink) -> None:
    """Bring all files that a training needs into the cache. Raises UserError, and whatever a signal raises."""
    if lacking := no_room(repository.name, repository.folder, repository.left):
        raise UserError(lacking.problem, lacking.fix, "disk")
    files = repository.missing
    stop = threading.Event()
    large = [file for file in files if file.sha256]
    telling = _Telling(repository, files, sink)
    pool = _Pool(AT_ONCE)
    try:
        waiting = [pool.submit(_fetch, repository, file, stop) for file in large]
        while not all(future.done() for future in waiting):
            for future in waiting:
                if future.done():
                    future.result()  # one that failed ends all of them
            telling.look()
            time.sleep(LOOK)
        for future in waiting:
            future.result()
        _link(repository, files)
        telling.end()
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


class _Telling:
    """How far a download is, as events that are few enough to keep."""

    def __init__(self, repository: Repository, files: Sequence[HubFile], sink: Sink) -> None:
        self._repository, self._files, self._sink = repository, files, sink
        self._total = sum(file.size for file in files)
        self._seen: deque[tuple[float, int]] = deque()
        """Moments and bytes of the last seconds."""
        self._told = (float("-inf"), 0)

    def look(self) -> None:
        now, done = time.monotonic(), sum(map(self._bytes, self._files))
        self._seen.append((now, done))
        while self._seen[0][0] < now - WINDOW:
            self._seen.popleft()
        passed, before = now - self._told[0], self._told[1]
        if passed >= TELL_SLOWLY or (passed >= TELL and done - before >= STEP * self._total):
            self._tell(now, done)

    def end(self) -> None:
        self._tell(time.monotonic(), self._total)

    def _tell(self, now: float, done: int) -> None:
        since, before = self._seen[0] if self._seen else (now, done)
        speed = (done - before) / (now - since) if now > since else 0.0
        ready = len(self._files) if done >= self._total else sum(map(self._ready, self._files))
        self._sink("download", files=ready, of=len(self._files), bytes=done, total=self._total, speed=round(speed))
        self._told = (now, done)

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
    """One large file, from where an earlier try left off. Raises UserError."""
    part, blob = repository.partial(file), _blob(repository, file)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        cache = repository.folder.parents[2]
        lock = file_locks.acquire(cache / ".locks" / f"{file.sha256}.lab-lock", patience=float("inf"))
        with lock or contextlib.nullcontext():
            if not blob.is_file():
                _grow(repository, file, part, stop)
                if not stop.is_set():
                    atomic.publish(part, blob)
    except OSError as error:
        if error.errno in FULL:
            raise disk_full() from error
        raise


def _grow(repository: Repository, file: HubFile, part: Path, stop: threading.Event) -> None:
    """Append to `part` until it is the whole file and has its checksum. Raises UserError."""
    tries = 0
    while not stop.is_set():
        before = _size(part)
        if before >= file.size:
            if before == file.size and _sha256(part, stop) == file.sha256:
                return
            if not stop.is_set():
                part.unlink()  # what an earlier try, or another program, left there was not this file
                tries += 1
        else:
            problem = _append(repository, file, part, stop)
            tries = 0 if _size(part) > before else tries + 1
            if problem is not None and tries < TRIES:
                stop.wait(min(2**tries, 10))
        if tries >= TRIES:
            raise UserError(
                f"The download of {repository.name} broke off after {size(_size(part))} of {file.name} "
                f"({size(file.size)}).",
                "Check the network, and resume the run: it goes on from there.",
            )


def _append(repository: Repository, file: HubFile, part: Path, stop: threading.Event) -> Exception | None:
    """Read on from the end of `part` for as long as the connection holds; returns what broke it.

    Raises UserError where the hub refuses, OSError where the disk does.
    """
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status

    url = hf_hub_url(repository.name, file.name, revision=repository.commit)
    start = _size(part)
    headers = {**build_hf_headers(), "Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    try:
        with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=QUIET) as response:
            hf_raise_for_status(response)
            with part.open("ab" if response.status_code == 206 else "wb") as target:
                for chunk in response.iter_bytes():
                    target.write(chunk)
                    if stop.is_set():
                        return None
    except Exception as error:  # of any kind: each version of the client has another network below it
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        told = refusal(repository.name, error)
        if type(told) is UserError:
            raise told from error
        return error
    return None


def _sha256(path: Path, stop: threading.Event) -> str:
    """The checksum of a file; empty where it is not wanted any more."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**24):
            if stop.is_set():
                return ""
            found.update(chunk)
    return found.hexdigest()


def _link(repository: Repository, files: Sequence[HubFile]) -> None:
    """Small files, and the links of all of them, by the hub's client. Raises UserError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    names = [file.name for file in files]
    try:
        snapshot_download(repository.name, revision=repository.commit, allow_patterns=names, max_workers=AT_ONCE)
    except OSError as error:
        if error.errno in FULL:
            raise disk_full() from error
        raise refusal(repository.name, error) from error
    if lost := [name for name in names if not (repository.folder / name).is_file()]:
        raise UserError(
            f"The hub did not give {', '.join(lost[:3])} of {repository.name}.",
            "Check the network, and resume the run.",
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
