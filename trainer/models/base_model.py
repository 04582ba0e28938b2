"""Checks whether a base model is ready for training: weights and tokenizer, local or on the hub, and disk space.

Used by the plan, the command line, experiments and the worker. Imports nothing heavy, and reads only the headers of
weight files.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from trainer.common.errors import Issue, UserError
from trainer.common.formatting import size
from trainer.config.schema import ModelConfig
from trainer.models import weight_files
from trainer.models.hub import COMMIT, Hub, Repository, cached
from trainer.models.locations import MAX_CONFIG_BYTES, is_folder, locate
from trainer.models.module_map import ModuleMap
from trainer.models.safetensors_header import is_pointer
from trainer.models.tensor_checks import tensor_issues
from trainer.models.tokenizer_files import tokenizer_issues
from trainer.models.weight_files import FIELD

SPARE_BYTES = 2**28
"""Bytes of disk space that a download leaves free."""


@dataclass(frozen=True)
class Base:
    """A base model's files."""

    issues: tuple[Issue, ...] = ()
    """Why it cannot be trained."""
    warnings: tuple[Issue, ...] = ()
    commit: str = ""
    """The commit that a hub model's revision currently points to; empty if unknown."""
    files: int = 0
    """Files still to download from the hub."""
    bytes: int = 0
    """Bytes still to download."""

    def to_json(self) -> dict[str, Any]:
        return {"commit": self.commit, "files": self.files, "bytes": self.bytes}


@dataclass
class BaseModels:
    """Examines base models; a folder is read again only when its files change."""

    models_dir: Path
    hub: Hub = field(default_factory=Hub)
    _known: dict[Path, tuple[Any, ModuleMap | None, Base]] = field(default_factory=dict)

    def examine(self, model: ModelConfig, module_map: ModuleMap | None = None) -> Base:
        """Check a model's files. `module_map`: its modules, to compare the tensors' shapes with.

        Raises UserError if the name is invalid.
        """
        source, keywords = locate(model, self.models_dir)
        if is_folder(keywords):
            shown = (self.models_dir / model.name.strip()).as_posix()
            return self._folder(model.name, Path(source), module_map, shown)
        if COMMIT.fullmatch(model.revision) and (kept := cached(model)) is not None:
            base = self._folder(model.name, kept.folder, module_map)
            if not base.issues:  # a commit never changes, so there is no need to ask the hub
                return replace(base, commit=kept.commit)
        try:
            found = self.hub.find(model)
        except UserError as error:
            return Base((Issue(FIELD, error.problem, error.fix),))
        if found is None:
            return Base((_unavailable(model.name),))
        return self._repository(found, module_map) if found.files else self._offline(found, module_map)

    def _folder(self, name: str, folder: Path, module_map: ModuleMap | None, shown: str = "") -> Base:
        """Check a folder that should hold everything. Cached until one of its files changes.

        `shown`: its path as used in suggested commands; empty for a hub model.
        """
        stamp = sorted((path.name, *_stamp(path)) for path in folder.iterdir())
        known = self._known.get(folder)
        if known is None or known[0] != stamp or known[1] is not module_map:
            known = self._known[folder] = (stamp, module_map, _read_folder(name, folder, module_map, shown))
        return known[2]

    def _repository(self, found: Repository, module_map: ModuleMap | None) -> Base:
        """A hub model whose file list is known."""
        sizes = {name: file.size for name, file in found.files.items() if "/" not in name}
        issues = weight_files.listing_issues(found.name, sizes, found.index)
        if issues:
            return Base(tuple(_repository_issue(issue, found) for issue in issues), commit=found.commit)
        if not found.missing:
            return replace(self._folder(found.name, found.folder, module_map), commit=found.commit)
        left = found.left
        lacking = disk_space_issue(found.name, found.folder, left)
        return Base(tuple(filter(None, [lacking])), (), found.commit, len(found.missing), left)

    def _offline(self, found: Repository, module_map: ModuleMap | None) -> Base:
        """A hub model of which only the cached files are known."""
        base = self._folder(found.name, found.folder, module_map)
        issues = tuple(_partly_cached(issue, found.name) for issue in base.issues)
        return replace(base, issues=issues, commit=found.commit)


def disk_space_issue(name: str, folder: Path, needed: int) -> Issue | None:
    """An issue if the disk lacks space for a download of `needed` bytes, else None."""
    place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    if needed + SPARE_BYTES <= free:
        return None
    cache = folder.parents[2]
    where = f"the disk of the hub's cache ({cache}) has {size(free)} free"
    problem = f"{name} needs {size(needed)} more on this machine, and {where}."
    return Issue(FIELD, problem, "Free some space there, or set HF_HOME to a folder on a larger disk.")


def _unavailable(name: str) -> Issue:
    fix = "Check the network, or put the model into the models folder."
    return Issue(FIELD, f"{name} is not on this machine, and the hub cannot be reached.", fix)


def _partly_cached(issue: Issue, name: str) -> Issue:
    """An issue of a partly cached hub model while the hub is unreachable."""
    if _has_other_formats(issue, name):
        return issue
    problem = f"{issue.problem} Its download is incomplete, and the hub cannot be reached."
    return replace(issue, problem=problem, fix="Connect this machine to the hub: the run downloads the rest.")


def _has_other_formats(issue: Issue, name: str) -> bool:
    return issue.problem.startswith(f"{name} has its weights as")


def _repository_issue(issue: Issue, found: Repository) -> Issue:
    """An issue of a hub repository, which the user cannot repair."""
    if found.converted:
        fix = f"The hub's bot has converted them: set Revision to {found.converted}."
    elif _has_other_formats(issue, found.name):
        fix = issue.fix
    else:
        fix = "Report it to the authors, or choose another repository or revision of this model."
    return replace(issue, fix=fix)


def _read_folder(name: str, folder: Path, module_map: ModuleMap | None, shown: str) -> Base:
    files = weight_files.file_sizes(folder)
    index = weight_files.index_in(folder)
    listing = weight_files.listing_issues(name, files, index, weight_files.unfinished_files(folder), shown)
    if is_pointer(folder / weight_files.INDEX):  # pointer_issues names it
        listing = [issue for issue in listing if issue != weight_files.damaged_index(name)]
    misplaced = weight_files.misplaced_issues(name, folder, files, index)
    if misplaced:  # it already explains where the weights are
        listing = [issue for issue in listing if issue != weight_files.no_weights(name)]
    broken_tokenizer, doubts = tokenizer_issues(name, folder, module_map)
    issues = [
        *_other_weights(name, folder),
        *misplaced,
        *listing,
        *weight_files.pointer_issues(name, folder, files),
        *broken_tokenizer,
    ]
    headers = weight_files.headers_of(folder, weight_files.files_to_load(files, index))
    broken = weight_files.header_issues(name, headers)
    if issues or broken:
        return Base((*issues, *broken))
    tensors = {key: tensor for header in headers.values() for key, tensor in header.tensors.items()}
    sharded = None if weight_files.SINGLE in files else index
    return Base(
        tuple(tensor_issues(name, tensors, sharded, module_map) if module_map is not None else ()),
        (*weight_files.index_warnings(name, sharded, headers), *doubts),
    )


def _other_weights(name: str, folder: Path) -> list[Issue]:
    """transformers reads the file that a config.json names as `transformers_weights`, which may be a pickle."""
    path = folder / "config.json"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:  # `load_config` refuses it
            return []
        named = orjson.loads(path.read_bytes()).get("transformers_weights")
    except (OSError, ValueError, AttributeError):
        return []
    if named in (None, weight_files.SINGLE, weight_files.INDEX):
        return []
    problem = f"The config.json of {name} names {str(named)[:80]!r} as its weights; {weight_files.READ_ONLY}"
    return [Issue(FIELD, problem, "Remove transformers_weights from it, and rename the file to model.safetensors.")]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    except OSError:
        return -1, 0
