"""Models of the Hugging Face hub: which commit a name means, its files, what of them is in the local cache.

The hub may be slow or out of reach: a question to it waits a few seconds at most, and that it gave no answer is
remembered for a minute. What it answered is remembered for ten.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.common.errors import UserError
from trainer.config.schema import ModelConfig
from trainer.models import weight_files
from trainer.models.weight_files import INDEX, MAX_INDEX_BYTES, Index

COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE = 4.0
"""Seconds to wait for an answer."""
SILENCE = 60.0
"""Seconds for which a hub that gave no answer is not asked again."""
FRESH = 600.0
"""Seconds for which an answer is good."""
CONFIG_BYTES = 200_000_000
"""Of config and tokenizer files: anything larger is none."""
_BESIDE_WEIGHTS = re.compile(
    r"(config|generation_config|special_tokens_map|added_tokens|tokenizer|tokenizer_config|vocab|tekken|chat_template"
    r"|processor_config|preprocessor_config|video_preprocessor_config|quant_config|quantize_config|hf_quant_config"
    r"|adapter_config)\.json"
    r"|(tokenizer|spiece|sentencepiece|sentencepiece\.bpe)\.model|(merges|vocab)\.txt|chat_template\.jinja"
    r"|additional_chat_templates/[\w.-]{1,100}\.jinja"
)
"""What is downloaded beside the weights. No code, no weights in other formats, no `original/`."""


class Unreachable(UserError):
    """The hub gave no answer."""


@dataclass(frozen=True)
class HubFile:
    """One file of a repository."""

    name: str
    size: int
    sha256: str = ""
    """Of the content; empty for small files that are not in Git LFS."""


@dataclass(frozen=True)
class Repository:
    """A model of the hub at one commit."""

    name: str
    commit: str
    """Forty hexadecimal digits."""
    folder: Path
    """Where this commit lies in the local cache, there or not."""
    files: Mapping[str, HubFile] = field(default_factory=dict)
    """All its files; empty where the hub did not answer, and only the cache is known."""
    index: Index | None = None
    converted: str = ""
    """Revision with the weights as safetensors, where this one has none and the hub's bot made one."""

    @property
    def needed(self) -> list[HubFile]:
        """The files that a training reads."""
        sizes = {name: file.size for name, file in self.files.items()}
        weights = [*weight_files.to_read(sizes, self.index), *([INDEX] if self.index is not None else [])]
        beside = [
            name for name, file in self.files.items() if _BESIDE_WEIGHTS.fullmatch(name) and file.size < CONFIG_BYTES
        ]
        return [self.files[name] for name in dict.fromkeys([*weights, *beside]) if name in self.files]

    @property
    def missing(self) -> list[HubFile]:
        """Those of them that are not in the cache."""
        return [file for file in self.needed if not (self.folder / file.name).is_file()]

    def partial(self, file: HubFile) -> Path:
        """Where a download of a file is kept until it is whole."""
        return self.folder.parents[1] / "blobs" / f"{file.sha256}.incomplete"

    @property
    def left(self) -> int:
        """Bytes still to download, what a download left half done not counted."""
        return sum(max(file.size - _bytes(self.partial(file)), 0) for file in self.missing)


class Hub:
    """The hub as one process knows it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[float, Repository]] = {}
        self._silent: tuple[float, str] = (float("-inf"), "")
        """When it last gave no answer, and why."""

    def find(self, model: ModelConfig, patience: float = PATIENCE) -> Repository | None:
        """The repository at the commit that `model.revision` means now; None where it is known nowhere.

        Where the hub cannot be reached, what the cache knows. Raises UserError where the hub refuses.
        """
        key = (model.name.strip(), model.revision)
        known = self._known.get(key)
        if known and time.monotonic() - known[0] < FRESH:
            return known[1]
        try:
            found: Repository = self.ask(lambda: _look_up(*key), patience)
        except Unreachable:
            return known[1] if known else cached(model)
        self._known[key] = (time.monotonic(), found)
        return found

    def ask(self, question: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """The answer of the hub. Raises Unreachable where it gives none in time, UserError where it refuses."""
        since, why = self._silent
        if time.monotonic() - since < SILENCE:
            raise Unreachable(why, OFFLINE_FIX)
        try:
            return in_time(patience, question)
        except Exception as error:
            told = error if isinstance(error, UserError) else refusal("the model", error)
            if isinstance(told, Unreachable):
                self._silent = (time.monotonic(), told.problem)
            raise told from error


OFFLINE_FIX = "Check the network, or put the model into the models folder."


def refusal(name: str, error: Exception) -> UserError:
    """What a person is told of a question about `name` that the hub did not answer, or refused."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return UserError(
            f"{name} is gated: its files are given to accounts that accepted its terms.",
            f"Accept them on huggingface.co/{name}, and start the app with HF_TOKEN set to a token of that account.",
        )
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"{name} has no such revision.", "Write a branch, a tag or a commit of it, such as main.")
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"The hub has no model {name}, or it is private.",
            "Check the name; for a private model, start the app with HF_TOKEN set.",
        )
    if isinstance(error, HFValidationError):
        return UserError(f"“{name[:100]}” is not a name that the hub can have.", "Write owner/name.")
    if isinstance(error, OfflineModeIsEnabled):
        return Unreachable("The hub is switched off by HF_HUB_OFFLINE.", OFFLINE_FIX)
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, HfHubHTTPError) and status in (401, 403):
        return UserError(
            f"The hub does not give {name} to this account (status {status}).",
            "Start the app with HF_TOKEN set to a token that may read it.",
        )
    if isinstance(error, HfHubHTTPError) and 400 <= status < 500 and status != 429:
        return UserError(f"The hub refuses this question about {name} (status {status}).", "Check the name.")
    answered = f"it answered with status {status}" if status else type(error).__name__
    return Unreachable(f"The hub cannot be reached ({answered}).", OFFLINE_FIX)


def in_time(seconds: float, question: Callable[[], Any]) -> Any:
    """The answer to a question that is given up after so many seconds: the hub's client itself tries for long.

    Raises Unreachable then, else whatever `question` raises.
    """
    answers: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()

    def run() -> None:
        try:
            answers.put((question(), None))
        except Exception as error:  # of any kind: the client's own, and those of the network below it
            answers.put((None, error))

    threading.Thread(target=run, name="hub", daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise Unreachable(f"The hub cannot be reached (no answer within {seconds:g} seconds).", OFFLINE_FIX) from None
    if error is not None:
        raise error
    return answer


def _look_up(name: str, revision: str) -> Repository:
    """Ask the hub for a model's commit and files. Raises UserError."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=30)
    except Exception as error:
        raise refusal(name, error) from error
    files = {
        item.rfilename: HubFile(item.rfilename, item.size or 0, item.lfs.sha256 if item.lfs else "")
        for item in info.siblings or []
    }
    commit = str(info.sha)
    index = _index_of(name, commit, files)
    found = Repository(name, commit, snapshot(name, commit), files, index)
    has_weights = weight_files.to_read(dict.fromkeys(files, 0), index)
    return found if has_weights else Repository(name, commit, found.folder, files, index, _converted(name))


def _index_of(name: str, commit: str, files: Mapping[str, HubFile]) -> Index | None:
    """The index of the shards, fetched if need be; None where it has none, or one that cannot be used."""
    from huggingface_hub import hf_hub_download

    if INDEX not in files or weight_files.SINGLE in files or files[INDEX].size > MAX_INDEX_BYTES:
        return None
    try:
        return weight_files.parse_index(Path(hf_hub_download(name, INDEX, revision=commit)).read_bytes())
    except Exception as error:
        raise refusal(name, error) from error


def _converted(name: str) -> str:
    """The pull request on which the hub's own bot put a model's weights as safetensors; empty where there is none."""
    from huggingface_hub import HfApi

    with contextlib.suppress(Exception):  # it is advice only
        for found in HfApi().get_repo_discussions(name, author="SFconvertbot", discussion_type="pull_request"):
            if found.status == "open" and "safetensors" in found.title:
                return f"refs/pr/{int(found.num)}"
    return ""


def cached(model: ModelConfig) -> Repository | None:
    """What the local cache has of a hub model at a revision, without asking the hub; None where it has nothing."""
    from huggingface_hub import try_to_load_from_cache

    name = model.name.strip()
    with contextlib.suppress(ValueError):
        path = try_to_load_from_cache(name, "config.json", revision=model.revision)
        if isinstance(path, str):
            folder = Path(path).parent
            return Repository(name, folder.name, folder, index=weight_files.index_in(folder))
    return None


def snapshot(name: str, commit: str) -> Path:
    """The folder of a commit in the cache: <cache>/models--owner--name/snapshots/<commit>."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots" / commit


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
