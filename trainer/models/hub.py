"""Models on the Hugging Face hub: the commit a revision points to, its files, and which of them are cached locally.

The hub may be slow or unreachable: a request waits a few seconds at most, a failure is remembered for a minute and an
answer for ten.
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

from trainer.common import file_modes
from trainer.common.errors import UserError
from trainer.config.schema import ModelConfig
from trainer.models import weight_files
from trainer.models.weight_files import INDEX, MAX_INDEX_BYTES, Index

COMMIT = re.compile(r"[0-9a-f]{40}")
ANSWER_TIMEOUT = 4.0
"""Seconds to wait for an answer."""
RETRY_AFTER = 60.0
"""Seconds until an unreachable hub is asked again."""
CACHE_SECONDS = 600.0
"""Seconds for which an answer is cached."""
CONFIG_BYTES = 200_000_000
"""Largest config or tokenizer file to download."""
_SUPPORT_FILES = re.compile(
    r"(config|generation_config|special_tokens_map|added_tokens|tokenizer|tokenizer_config|vocab|tekken|chat_template"
    r"|processor_config|preprocessor_config|video_preprocessor_config|quant_config|quantize_config|hf_quant_config"
    r"|adapter_config)\.json"
    r"|(tokenizer|spiece|sentencepiece|sentencepiece\.bpe)\.model|(merges|vocab)\.txt|chat_template\.jinja"
    r"|additional_chat_templates/[\w.-]{1,100}\.jinja"
)
"""Files downloaded in addition to the weights. No code, no weights in other formats, no `original/`."""


class UnknownModel(UserError):
    """The hub has no such model, or it cannot be asked."""


class Unreachable(UnknownModel):
    """The hub did not answer."""


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
    """Snapshot folder of this commit in the local cache, whether it exists or not."""
    files: Mapping[str, HubFile] = field(default_factory=dict)
    """All its files; empty if only the cache is known because the hub did not answer."""
    index: Index | None = None
    converted: str = ""
    """Revision with the weights as safetensors, where this one has none and the hub's bot made one."""

    @property
    def needed(self) -> list[HubFile]:
        """The files that training reads."""
        sizes = {name: file.size for name, file in self.files.items()}
        weights = [*weight_files.files_to_load(sizes, self.index), *([INDEX] if self.index is not None else [])]
        beside = [
            name for name, file in self.files.items() if _SUPPORT_FILES.fullmatch(name) and file.size < CONFIG_BYTES
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
        """Bytes still to download, without what partial downloads already have."""
        return sum(max(file.size - _bytes(self.partial(file)), 0) for file in self.missing)


class Hub:
    """Requests to the hub, cached for this process."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[float, Repository]] = {}
        self._last_failure: tuple[float, str] = (float("-inf"), "")
        """When it last gave no answer, and why."""

    def find(self, model: ModelConfig, patience: float = ANSWER_TIMEOUT) -> Repository | None:
        """The repository at the commit that `model.revision` points to now; None if it is unknown.

        Falls back to the local cache if the hub cannot be reached. Raises UserError if the hub refuses.
        """
        key = (model.name.strip(), model.revision)
        known = self._known.get(key)
        if known and time.monotonic() - known[0] < CACHE_SECONDS:
            return known[1]
        try:
            found: Repository = self.ask(lambda: _look_up(*key), patience)
        except Unreachable:
            return known[1] if known else cached(model)
        self._known[key] = (time.monotonic(), found)
        return found

    def ask(self, question: Callable[[], Any], patience: float = ANSWER_TIMEOUT) -> Any:
        """The hub's answer. Raises Unreachable if none comes in time, UserError if the hub refuses."""
        since, why = self._last_failure
        if time.monotonic() - since < RETRY_AFTER:
            raise Unreachable(why, OFFLINE_FIX)
        try:
            return in_time(patience, question)
        except Exception as error:
            refused = error if isinstance(error, UserError) else refusal("the model", error)
            if isinstance(refused, Unreachable):
                self._last_failure = (time.monotonic(), refused.problem)
            raise refused from error


OFFLINE_FIX = "Check the network, or put the model into the models folder."


def cached_names() -> list[str]:
    """Ids of the hub models that have a folder in the cache, whole or not."""
    from huggingface_hub import constants

    places = Path(constants.HF_HUB_CACHE).glob("models--*--*")
    return sorted(place.name.removeprefix("models--").replace("--", "/", 1) for place in places)


def refusal(name: str, error: Exception) -> UserError:
    """The error to show when the hub refused a request for `name`, or did not answer it."""
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
            f"{name} is gated: its files are only available to accounts that have accepted its terms.",
            f"Accept them on huggingface.co/{name}, and start the app with HF_TOKEN set to a token of that account.",
        )
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"{name} has no such revision.", "Enter one of its branches, tags or commits, such as main.")
    if isinstance(error, RepositoryNotFoundError):
        return UnknownModel(
            f"The hub has no model {name}, or it is private.",
            "Check the name; for a private model, start the app with HF_TOKEN set.",
        )
    if isinstance(error, HFValidationError):
        return UserError(f"“{name[:100]}” is not a valid hub model name.", "Enter owner/name.")
    if isinstance(error, OfflineModeIsEnabled):
        return Unreachable("The hub is disabled by HF_HUB_OFFLINE.", OFFLINE_FIX)
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, HfHubHTTPError) and status in (401, 403):
        return UserError(
            f"The hub denies this account access to {name} (status {status}).",
            "Start the app with HF_TOKEN set to a token with read access to it.",
        )
    if isinstance(error, HfHubHTTPError) and 400 <= status < 500 and status != 429:
        return UserError(f"The hub rejected the request for {name} (status {status}).", "Check the name.")
    answered = f"it answered with status {status}" if status else type(error).__name__
    return Unreachable(f"The hub cannot be reached ({answered}).", OFFLINE_FIX)


def in_time(seconds: float, question: Callable[[], Any]) -> Any:
    """Run `question` with a timeout, since the hub client itself keeps retrying for long.

    Raises Unreachable after `seconds`, else whatever `question` raises.
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
    has_weights = weight_files.files_to_load(dict.fromkeys(files, 0), index)
    return found if has_weights else Repository(name, commit, found.folder, files, index, _converted(name))


def _index_of(name: str, commit: str, files: Mapping[str, HubFile]) -> Index | None:
    """The shard index, downloaded if needed; None if there is none, or an unusable one."""
    from huggingface_hub import hf_hub_download

    if INDEX not in files or weight_files.SINGLE in files or files[INDEX].size > MAX_INDEX_BYTES:
        return None
    try:
        with file_modes.ordinary():
            index = hf_hub_download(name, INDEX, revision=commit)
        return weight_files.parse_index(Path(index).read_bytes())
    except Exception as error:
        raise refusal(name, error) from error


def _converted(name: str) -> str:
    """The pull request in which the hub's bot added a model's weights as safetensors; empty if there is none."""
    from huggingface_hub import HfApi

    with contextlib.suppress(Exception):  # only used for a hint
        for found in HfApi().get_repo_discussions(name, author="SFconvertbot", discussion_type="pull_request"):
            if found.status == "open" and "safetensors" in found.title:
                return f"refs/pr/{int(found.num)}"
    return ""


def cached(model: ModelConfig) -> Repository | None:
    """The cached snapshot of a hub model at a revision, without asking the hub; None if nothing is cached."""
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
