"""Resolves model names, and loads config and tokenizer.

A model is named `demo`, by a folder in the models folder, or by its hub id. Code that comes with a model is never
run, and only safetensors weights are read.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from pathlib import Path
from typing import Any

from trainer import demo
from trainer.common import file_modes
from trainer.common.errors import UserError, first_line
from trainer.config.schema import ModelConfig
from trainer.models.hub import COMMIT, UnknownModel, Unreachable, cached_names, in_time, refusal, snapshot
from trainer.models.model_config import make_config, missing_package
from trainer.models.safetensors_header import DOWNLOAD_AGAIN, LFS_PULL, is_pointer
from trainer.models.tokenizer_files import check_tokenizer
from trainer.models.weight_files import INDEX, MAX_INDEX_BYTES, TOKENIZER_FILES, WEIGHTS_FILE, is_whole

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
FOLDER = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}")
CONFIG_PATIENCE = 10.0
"""Seconds to wait for a config.json of the hub."""
MAX_CONFIG_BYTES = 5_000_000


def local_models(models_dir: Path) -> list[str]:
    """Names of the folders in `models_dir` that hold a config.json and that `locate` accepts."""
    if not models_dir.is_dir():
        return []
    names = (path.name for path in models_dir.iterdir() if (path / "config.json").is_file())
    return sorted(name for name in names if FOLDER.fullmatch(name) and name != "demo")


def locate(model: ModelConfig, models_dir: Path) -> tuple[str, dict[str, Any]]:
    """The first argument and the keywords for `from_pretrained`.

    A hub model pinned to a fully cached commit is read from the cache without asking the hub.
    Raises UserError if the name is invalid or the folder does not exist.
    """
    name = model.name.strip()
    if name == "demo":
        return str(demo.MODEL_DIR), {"local_files_only": True}
    if FOLDER.fullmatch(name):
        folder = models_dir / name
        if (folder / "config.json").is_file():
            return str(folder.resolve()), {"local_files_only": True}
        raise UserError(*_no_folder(name, models_dir))
    if HUB_ID.fullmatch(name) and ".." not in name:
        if not REVISION.fullmatch(model.revision) or ".." in model.revision:
            raise UserError(
                f"“{model.revision[:100]}” is not a valid revision.", "Enter a branch, a tag or a commit."
            )
        if Path(name).exists():  # from_pretrained would take such a folder for the hub's model
            raise UserError(
                f"A folder “{name}” in the working folder hides the hub model of that name.",
                "Move it away, or into the models folder.",
            )
        pinned = COMMIT.fullmatch(model.revision) and is_whole(snapshot(name, model.revision))
        return name, {"revision": model.revision, **({"local_files_only": True} if pinned else {})}
    raise UserError(
        f"“{name[:100]}” is not a model name.",
        _or_near(
            name[:100],
            models_dir,
            f"Enter demo, the name of a folder in {models_dir.resolve()}, or a hub id (owner/name).",
        ),
    )


def is_folder(keywords: dict[str, Any]) -> bool:
    """Whether `locate` resolved to a local folder rather than a hub model."""
    return "revision" not in keywords


def _no_folder(name: str, models_dir: Path) -> tuple[str, str]:
    """Problem and fix for a missing model folder: where it should be, and similar names."""
    place = models_dir.resolve()
    if (place / name / "config.json").is_symlink():
        target = (place / name / "config.json").readlink()
        return f"The config.json of {name} is a broken link to {target}.", "Copy the file itself."
    if (place / name).is_dir():
        return f"{place / name} has no config.json.", "Put the model's config.json there, beside its weights."
    fix = _or_near(name, models_dir, "Put its folder there, or enter a hub model as owner/name.")
    return f"There is no model folder {place / name}.", fix


def _or_near(name: str, models_dir: Path, fix: str) -> str:
    """A fix for an unknown name, after similar names of models on this machine, if there are any."""
    known: dict[str, str] = {}
    for item in ("demo", *local_models(models_dir), *cached_names()):
        known.setdefault(item.casefold(), item)
        known.setdefault(item.rpartition("/")[2].casefold(), item)  # the owner is what people forget
    text = name.casefold()
    near = difflib.get_close_matches(text, known, n=6, cutoff=0.5)
    near += difflib.get_close_matches(text.rpartition("/")[2], known, n=3, cutoff=0.7)
    found = list(dict.fromkeys(known[item] for item in near if known[item] != name))[:3]
    return f"Did you mean {' or '.join(found)}? If not, {fix[0].lower()}{fix[1:]}" if found else fix


def files_stamp(model: ModelConfig, models_dir: Path) -> tuple[tuple[int, int], ...]:
    """Modification times and sizes of a local model's config and tokenizer files, as a cache key."""
    name, found = model.name.strip(), []
    for file in ("config.json", "chat_template.jinja", *TOKENIZER_FILES) if FOLDER.fullmatch(name) else ():
        with contextlib.suppress(OSError):
            status = (models_dir / name / file).stat()
            found.append((status.st_mtime_ns, status.st_size))
    return tuple(found)


def load_config(model: ModelConfig, models_dir: Path) -> Any:
    """The transformers config of a model; its JSON is checked before transformers sees it.

    Raises UserError if it is missing, needs custom code, or is of an unknown type.
    """
    source, keywords = locate(model, models_dir)
    try:
        value = _read_config(source, keywords, model.name)
    except UnknownModel as error:
        raise type(error)(error.problem, _or_near(model.name, models_dir, error.fix)) from error
    return make_config(value, model.name, source)


def check_weights(model: ModelConfig, models_dir: Path) -> None:
    """Raise UserError for an adapter folder, or an index that names anything but safetensors in its own folder.

    transformers would follow an adapter's `base_model_name_or_path`, and read any file that an index names.
    """
    source, keywords = locate(model, models_dir)
    if _file(source, keywords, "adapter_config.json") is not None:
        raise UserError(f"{model.name} is an adapter, not a model.", "Choose the model that it was trained on.")
    index = _file(source, keywords, INDEX)
    if index is None:
        return
    names = _read_json(index, MAX_INDEX_BYTES, f"The {INDEX} of {model.name}").get("weight_map")
    if not isinstance(names, dict) or not all(WEIGHTS_FILE.fullmatch(str(name)) for name in names.values()):
        raise UserError(
            f"The {INDEX} of {model.name} names files that are not safetensors in its own folder.",
            "Choose a model with its weights as safetensors.",
        )


def load_tokenizer(model: ModelConfig, models_dir: Path) -> Any:
    """The model's tokenizer. Raises UserError if there is none."""
    from transformers import AutoTokenizer

    source, keywords = locate(model, models_dir)
    kept = Path(source) if is_folder(keywords) else snapshot(source, model.revision)
    check_tokenizer(model.name, kept)
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **keywords)
    except ImportError as error:
        raise missing_package(error, f"The tokenizer of {model.name}") from error
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of the Rust library
            raise
        if "custom code" in str(error):
            raise UserError(
                f"The tokenizer of {model.name} needs custom code, and code from a model is never run.",
                "Choose a model whose tokenizer transformers supports, or a copy of this one with such a tokenizer.",
            ) from error
        raise UserError(
            f"The tokenizer of {model.name} cannot be loaded: {first_line(error)}",
            "It needs tokenizer.json, or files that transformers can convert to one.",
        ) from error


def _read_config(source: str, keywords: dict[str, Any], name: str) -> dict[str, Any]:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = in_time(CONFIG_PATIENCE, lambda: _file(source, keywords, "config.json"))
    except (LocalEntryNotFoundError, Unreachable) as error:
        raise Unreachable(
            f"{name} is not on this machine and the hub cannot be reached.",
            "Check the name and the network, or put the model into the models folder.",
        ) from error
    except HfHubHTTPError as error:
        raise refusal(name, error) from error
    except (OSError, ValueError) as error:
        raise UserError(f"The config.json of {name} cannot be read: {first_line(error)}.", DOWNLOAD_AGAIN) from error
    if path is None:
        raise UserError(f"{name} has no config.json.", "Choose another model.")
    return _read_json(path, MAX_CONFIG_BYTES, f"The config.json of {name}")


def _file(source: str, keywords: dict[str, Any], file: str) -> Path | None:
    """A file of the model, downloaded if needed; None if the model has no such file.

    Raises the hub's errors.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # type: ignore[no-untyped-call]  # else it logs every attempt
    if is_folder(keywords) or keywords.get("local_files_only"):
        path = (Path(source) if is_folder(keywords) else snapshot(source, keywords["revision"])) / file
        return path if path.is_file() else None
    try:
        with file_modes.ordinary():
            return Path(hf_hub_download(source, file, revision=keywords.get("revision")))
    except LocalEntryNotFoundError:
        if file == "config.json":
            raise
        return None  # offline: from_pretrained finds no more than this does
    except EntryNotFoundError:
        return None


def _read_json(path: Path, limit: int, what: str) -> dict[str, Any]:
    """A JSON object of bounded size and depth. Raises UserError."""
    if is_pointer(path):
        raise UserError(f"{what} is a Git LFS pointer, not the file itself.", LFS_PULL)
    try:
        if path.stat().st_size > limit:
            raise UserError(f"{what} is too large.", "Choose another model.")
        text = path.read_bytes().strip()
        value = json.loads(text.decode("utf-8")) if text else None
    except OSError as error:
        raise UserError(f"{what} cannot be read: {error.strerror or error}.", "Check its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not valid JSON: {first_line(error)}.", DOWNLOAD_AGAIN) from error
    if not text:
        raise UserError(f"{what} is empty.", DOWNLOAD_AGAIN)
    if not isinstance(value, dict):
        raise UserError(f"{what} is not a JSON object.", DOWNLOAD_AGAIN)
    return value
