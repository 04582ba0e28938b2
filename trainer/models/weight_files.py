"""Finds a model's weight files and what is wrong with them, from names, sizes and headers only.

Which file is read is transformers' choice: model.safetensors, else the shards that model.safetensors.index.json
names. The same rules hold for a folder and for the file list of a hub repository.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from trainer.common.errors import Issue
from trainer.common.formatting import size
from trainer.models.safetensors_header import DOWNLOAD_AGAIN, LFS_PULL, Header, is_pointer, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 50_000_000
WEIGHTS_FILE = re.compile(r"[\w.-]{1,200}\.safetensors")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)
FIELD = "model.name"
MAX_NAMED = 4
"""Files or tensors to name in a message before abbreviating with a count."""
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_WEIGHTS = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|gguf)")
_UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".download")


@dataclass(frozen=True)
class Index:
    """model.safetensors.index.json: the file of every tensor."""

    files: Mapping[str, str]
    """Tensor -> file."""
    total_size: int = 0
    """Bytes of all tensors according to the index; 0 if it does not say."""

    @property
    def shards(self) -> list[str]:
        return sorted(set(self.files.values()))


def no_weights(name: str) -> Issue:
    """The issue of a model without weights in any format, which can be planned but not trained."""
    return Issue(FIELD, f"{name} has no weights.", f"Put its safetensors weights ({SINGLE}) into its folder.")


def no_tokenizer(name: str) -> Issue:
    return Issue(FIELD, f"{name} has no tokenizer.", "Put tokenizer.json and tokenizer_config.json into its folder.")


def damaged_index(name: str) -> Issue:
    problem = f"The {INDEX} of {name} is damaged, or names files that are not safetensors of its own folder."
    return Issue(FIELD, problem, DOWNLOAD_AGAIN)


def parse_index(data: bytes) -> Index | None:
    """An index from its JSON; None if it is invalid, or names anything but safetensors in its own folder."""
    try:
        value = orjson.loads(data)
        files = value["weight_map"]
        if not files or not all(WEIGHTS_FILE.fullmatch(str(file)) for file in files.values()):
            return None
        total = value.get("metadata", {}).get("total_size", 0)
        return Index(dict(files), int(total) if isinstance(total, int | float) else 0)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def index_in(folder: Path) -> Index | None:
    """The index in a folder; None if there is no usable one."""
    path = folder / INDEX
    try:
        return parse_index(path.read_bytes()) if path.stat().st_size <= MAX_INDEX_BYTES else None
    except OSError:
        return None


def file_sizes(folder: Path) -> dict[str, int]:
    """Names and bytes of the files at the top of a folder; broken links are left out."""
    found = {}
    for path in folder.iterdir():
        try:
            if path.is_file():
                found[path.name] = path.stat().st_size
        except OSError:
            continue
    return found


def is_whole(folder: Path) -> bool:
    """Whether a folder has everything that training reads: config, tokenizer, weights."""
    if not (folder / "config.json").is_file():
        return False
    files = file_sizes(folder)
    wanted = files_to_load(files, index_in(folder))
    return bool(wanted) and all(name in files for name in wanted) and any(name in files for name in TOKENIZER_FILES)


def files_to_load(files: Mapping[str, int], index: Index | None) -> list[str]:
    """Names of the weight files that loading would read, whether they exist or not; empty if there are none."""
    if SINGLE in files:
        return [SINGLE]
    return index.shards if INDEX in files and index is not None else []


def listing_issues(
    name: str, files: Mapping[str, int], index: Index | None, unfinished: Sequence[str] = (), source: str = ""
) -> list[Issue]:
    """What is wrong with a model, judging by its file names.

    `unfinished`: partial downloads. `source`: the argument for `from_pretrained`, if it is not the name.
    """
    wanted = files_to_load(files, index)
    missing = [file for file in wanted if file not in files]
    issues = []
    if missing:
        problem = f"{name} is missing {len(missing)} of its {len(wanted)} weight files: {some(missing)}."
        issues.append(Issue(FIELD, problem, _finish(unfinished) or "Download them into its folder."))
    elif not wanted:
        issue = _no_weights(name, files, source or name) or (
            _cut_off(name, unfinished) if unfinished else no_weights(name)
        )
        issues.append(issue)
    if not any(file in files for file in TOKENIZER_FILES):
        issue = no_tokenizer(name)
        issues.append(replace(issue, fix=_finish(unfinished) or issue.fix))
    return issues


def _no_weights(name: str, files: Mapping[str, int], source: str) -> Issue | None:
    """What is wrong with a model whose weights transformers would not read; None if it has no weights at all."""
    if INDEX in files:
        return damaged_index(name)
    shards = sorted(file for file in files if _SHARD.fullmatch(file))
    if shards:
        count = int(shards[0][15:20])
        if len(shards) == count:
            problem = f"{name} lacks {INDEX}, which says what is in its {count} shards."
            return Issue(FIELD, problem, f"Download {INDEX} from where the shards came from.")
        problem = f"{name} has {len(shards)} of {count} shards, and lacks {INDEX}, which says what is in them."
        return Issue(FIELD, problem, f"Download {INDEX} and the other shards from where these came from.")
    for ending, advise in _FORMATS:
        found = sorted(file for file in files if re.fullmatch(ending, file))
        if found:
            return Issue(
                FIELD, f"{name} has its weights as {some(found)} only; {READ_ONLY}", advise(source, found[0])
            )
    return None


READ_ONLY = f"only safetensors are read, from {SINGLE} or the shards of its index."
_CONVERT = (
    "Convert them on a machine where you trust the file, since reading it can run code: "
    'python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
    "M.from_pretrained({source!r}, dtype='auto'{more}).save_pretrained('converted'); "
    "T.from_pretrained({source!r}{more}).save_pretrained('converted')\" "
    "and put the folder `converted` into the models folder."
)


def _convert(source: str, _file: str) -> str:
    return _CONVERT.format(source=source, more="")


def _convert_gguf(source: str, file: str) -> str:
    text = _CONVERT.format(source=source, more=f", gguf_file='{file}'").replace(", since reading it can run code", "")
    return "If you can, use the original repository of the GGUF file. Otherwise: pip install gguf. " + text


def _rename(_source: str, file: str) -> str:
    return f"If this one file holds the whole model in transformers' format, rename {file} to {SINGLE}."


def _original(_source: str, _file: str) -> str:
    return (
        "The vendor's own format has other tensor names. Use the repository with weights in transformers' "
        "format (often the same name with -hf), or convert them with transformers' script for this model."
    )


def _adapter(_source: str, _file: str) -> str:
    return "This is an adapter. Choose the model that it was trained on."


_FORMATS = (
    (r"adapter_model\.(safetensors|bin)", _adapter),
    (r"consolidated.*\.(safetensors|pth|pt)", _original),
    (r".*\.safetensors", _rename),
    (r".*\.(bin|pt|pth|ckpt|h5|msgpack)", _convert),
    (r".*\.gguf", _convert_gguf),
)
"""Names of weights in other forms, in the order in which they are looked for, and what to do about them."""


def unfinished_files(folder: Path) -> list[str]:
    """Partial downloads in a folder, including those that the hub client keeps in .cache."""
    found = [path.name for path in folder.iterdir() if path.name.endswith(_UNFINISHED)]
    cache = folder / ".cache" / "huggingface" / "download"
    return sorted(found + [path.name for path in cache.glob("**/*.incomplete")])


def misplaced_issues(name: str, folder: Path, files: Mapping[str, int], index: Index | None) -> list[Issue]:
    """Broken links, folders named like weight files, and weights that are only in subfolders."""
    issues, wanted = [], files_to_load(files, index)
    paths = sorted(folder.iterdir())
    needed = [path for path in paths if path.name in wanted or (not wanted and _WEIGHTS.fullmatch(path.name))]
    needed += [path for path in paths if path.suffix in (".json", ".jinja", ".model")]
    if broken := [path.name for path in needed if path.is_symlink() and not path.exists()]:
        target = (folder / broken[0]).readlink()
        problem = f"{some(broken)} of {name} {'is a link to a file' if len(broken) == 1 else 'are links to files'}"
        problem += f" that {'is' if len(broken) == 1 else 'are'} not there, such as {target}."
        issues.append(Issue(FIELD, problem, "Copy the files that the links lead to, for example with `cp -rL`."))
    if wrong := [path.name for path in needed if path.is_dir() and _WEIGHTS.fullmatch(path.name)]:
        problem = f"{some(wrong)} of {name} {'is a folder' if len(wrong) == 1 else 'are folders'}, not weights."
        issues.append(Issue(FIELD, problem, "Put the weight files themselves there."))
    if not any(_WEIGHTS.fullmatch(file) for file in files):
        below = [path for path in sorted(folder.glob("[!.]*/*")) if path.is_file() and _WEIGHTS.fullmatch(path.name)]
        if below:
            found = some([path.relative_to(folder).as_posix() for path in below])
            problem = f"{name} has weights in a subfolder only, where they are not read: {found}."
            issues.append(Issue(FIELD, problem, "Move them, with all files beside them, next to its config.json."))
    return issues


def _cut_off(name: str, unfinished: Sequence[str]) -> Issue:
    return Issue(FIELD, f"The download of {name} was cut off, and it has no weights yet.", _finish(unfinished))


def _finish(unfinished: Sequence[str]) -> str:
    if not unfinished:
        return ""
    number = "one file" if len(unfinished) == 1 else f"{len(unfinished)} files"
    return f"A download left {number} unfinished there: run it again, such as `hf download`, until it says done."


def header_issues(name: str, headers: Mapping[str, Header]) -> list[Issue]:
    """What is wrong with single files; files with the same problem share one sentence."""
    same: dict[tuple[str, str], list[str]] = {}
    for file, header in headers.items():
        if header.problem:
            same.setdefault((header.problem, header.fix), []).append(file)
    return [
        Issue(FIELD, f"The weights of {name} cannot be loaded: {some(found)} {_each(found)}{problem}.", fix)
        for (problem, fix), found in same.items()
    ]


def _each(files: Sequence[str]) -> str:
    return "(each) " if len(files) > 1 else ""


def pointer_issues(name: str, folder: Path, files: Mapping[str, int]) -> list[Issue]:
    """Git LFS pointers among config and tokenizer."""
    found = [file for file in sorted(files) if not file.endswith(".safetensors") and is_pointer(folder / file)]
    if not found:
        return []
    problem = f"{some(found)} of {name} {'is a Git LFS pointer' if len(found) == 1 else 'are Git LFS pointers'}."
    return [Issue(FIELD, problem, LFS_PULL)]


def index_warnings(name: str, index: Index | None, headers: Mapping[str, Header]) -> list[Issue]:
    """A warning if the index gives another size than the files have: they load, but may be from different models."""
    held = sum(header.data_bytes for header in headers.values())
    if index is None or not index.total_size or abs(index.total_size - held) <= 0.01 * held:
        return []
    problem = f"The {INDEX} of {name} counts {size(index.total_size)} of weights, and its files hold {size(held)}."
    return [Issue(FIELD, problem, "Make sure that all were downloaded from the same repository.")]


def headers_of(folder: Path, files: Sequence[str]) -> dict[str, Header]:
    """The headers of those of these files that exist."""
    return {file: read_header(folder / file) for file in files if (folder / file).is_file()}


def some(names: Sequence[str], most: int = MAX_NAMED, between: str = ", ") -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return between.join(name[:160] for name in names[:most]) + (f" and {more} more" if more > 0 else "")
